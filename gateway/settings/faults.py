"""What is wrong with a configuration, told without ever repeating it.

A value that is wrong may be a secret in the wrong place, so no text here holds an input, not even in part.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from pydantic_core import ErrorDetails, PydanticCustomError

_OURS = "gateway"


@dataclass(frozen=True, slots=True)
class ConfigFault:
    """One thing to mend: where it is, what is wrong or expected there, and an example of what is right."""

    where: str
    """The name of a variable, or a path into gateway.yaml such as `clients[1].origins[0]`."""
    problem: str
    example: str = ""
    line: int | None = None
    """The line of gateway.yaml, from 1."""

    def __str__(self) -> str:
        place = self.where if self.line is None else f"{self.where} (line {self.line})"
        example = f" (example: {self.example})" if self.example else ""
        return f"{place}: {self.problem}{example}"


class ConfigurationError(Exception):
    """The configuration cannot be used; `faults` names everything that is wrong with it, one a line in its text.

    Raise it outside of any `except` block: an exception that it carries as context would bring the input along.
    """

    def __init__(self, faults: Iterable[ConfigFault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(str(fault) for fault in self.faults))


def refusal(problem: str, *, at: tuple[str | int, ...] = ()) -> PydanticCustomError:
    """Make the error that a validator raises.

    `problem` must be our own words, never the input; `at` leads from where the validator stands to what is wrong.
    """
    return PydanticCustomError(_OURS, problem, {"at": at})


def own_words(error: ErrorDetails) -> tuple[str | None, tuple[str | int, ...]]:
    """Return text and `at` of an error made by `refusal`; None for pydantic's own, whose texts may hold inputs."""
    if error["type"] != _OURS:
        return None, ()
    return error["msg"], error["ctx"]["at"]
