"""Payment events: what QuantaPay tells us, taken safely, and what we tell subscribers, delivered surely."""
