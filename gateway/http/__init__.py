"""What every request and answer has in common: ids, limits of size, problems, the specification."""
