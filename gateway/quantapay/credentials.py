"""A secret and its successor: what is tried first, and what is remembered of it."""

from pydantic import SecretStr


class RotatingSecret:
    """One secret, or two while it is being replaced; the one that last worked is tried first."""

    def __init__(self, current: SecretStr, successor: SecretStr | None = None) -> None:
        self._candidates: tuple[SecretStr, ...] = (current,) if successor is None else (current, successor)

    @property
    def candidates(self) -> tuple[SecretStr, ...]:
        """Return what to try, in order."""
        return self._candidates

    def worked(self, secret: SecretStr) -> None:
        """Put `secret` first from now on."""
        if secret is not self._candidates[0]:
            self._candidates = tuple(reversed(self._candidates))
