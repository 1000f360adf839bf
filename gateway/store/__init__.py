"""Redis, and what happens when it is not there."""
