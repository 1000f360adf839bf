"""What every error is: a status, a code, and what a caller may know."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

Outcome = Literal["unknown", "not_sent"]
"""What became of a call that changes something: it may have happened, or it surely did not."""


@dataclass(frozen=True, slots=True)
class FieldFault:
    """One thing wrong with one input: where it is, and what it should have been."""

    detail: str
    pointer: str | None = None
    """A JSON Pointer into the body as a URI fragment (RFC 6901 §6), such as `#/price`."""
    parameter: str | None = None
    """The name of a path or query parameter, or of a header."""


class GatewayError(Exception):
    """The root: an answer other than the one asked for, with the status and code callers will see."""

    status: ClassVar[int]
    code: ClassVar[str]
    title: ClassVar[str]
    remedy: ClassVar[str]
    """What to do about it, for the page at `/problems/<code>`."""

    def __init__(
        self,
        detail: str | None = None,
        *,
        faults: Sequence[FieldFault] = (),
        retry_after: int | None = None,
        outcome: Outcome | None = None,
        upstream_code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail or self.title)
        self.detail = detail or self.remedy
        self.faults = tuple(faults)
        self.retry_after = retry_after
        """Seconds, at least 1, until trying again makes sense."""
        self.outcome = outcome
        self.upstream_code = upstream_code
        """QuantaPay's own slug, already held to `[a-z0-9-]{1,64}` (contract §3)."""
        self.headers = dict(headers or {})


def problem_types() -> Iterator[type[GatewayError]]:
    """Yield every concrete error, in the order of the tree above."""
    pending: list[type[GatewayError]] = [GatewayError]
    while pending:
        error = pending.pop(0)
        pending = [*error.__subclasses__(), *pending]
        if "code" in vars(error):  # not one that only carries more than its parent
            yield error
