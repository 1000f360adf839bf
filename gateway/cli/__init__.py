"""The `quantapay-gateway` program. Exit codes: 0 done, 1 failed, 2 wrong usage or configuration."""

import gc


def main() -> None:
    """Run the program."""
    # Imports leave no garbage worth the look, which would take 150 ms of a start. `common.start_collecting` ends this.
    gc.disable()
    from gateway.cli.program import app  # noqa: PLC0415 - not before the line above

    app()


__all__ = ["main"]
