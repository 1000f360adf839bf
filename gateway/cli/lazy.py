"""Commands that are imported when they are called: the gateway takes a second, and `--help` needs nothing of it."""

from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand
from typer.main import get_group

from gateway.cli.lean import lean_imports


class LazyCommand(TyperCommand):
    """Stands for a command in the list of `--help`, and becomes it when it is called."""

    def __init__(self, name: str, where: str, *, help: str, hidden: bool = False) -> None:  # noqa: A002 - typer's word
        """`where`: module:name of the command's function, or of the Typer that holds its own commands."""
        super().__init__(name, help=help, hidden=hidden)
        self._where = where

    def load(self) -> Any:  # noqa: ANN401 - the class is private to typer
        """Import the command and return it."""
        module, _, attribute = self._where.partition(":")
        with lean_imports():
            found = getattr(import_module(module), attribute)
        around = typer.Typer()
        if isinstance(found, typer.Typer):
            around.add_typer(found, name=self.name)
        else:
            around.command(self.name)(found)
        return get_group(around).commands[str(self.name)]

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:  # noqa: ANN401 - as above
        """Read the command line as the command itself: whoever makes a context is about to call it."""
        return self.load().make_context(info_name, args, parent, **extra)
