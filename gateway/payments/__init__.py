"""Checkout sessions: what was asked for, what was paid, and who is told."""
