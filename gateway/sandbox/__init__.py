"""A whole QuantaPay world on loopback: a simulator, a store, a gateway, ready-made keys."""
