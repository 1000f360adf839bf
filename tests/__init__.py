"""The test suite; a package so that its plugins can be imported by name."""
