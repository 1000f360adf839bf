"""Fixtures that several parts of the suite share."""
