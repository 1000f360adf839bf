"""The upstream: one function table, one envelope, one client."""
