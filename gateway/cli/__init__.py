"""The `quantapay-gateway` program. Exit codes: 0 done, 1 failed, 2 wrong usage or configuration."""

from gateway.cli.program import main

__all__ = ["main"]
