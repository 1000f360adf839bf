"""gateway.yaml: clients, subscribers, functions. Loaded, validated, re-read when it changes."""
