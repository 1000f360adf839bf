"""Which pages may use a publishable key: those of its client's origins, compared exactly (RFC 6454 §6)."""

from collections.abc import Iterable, Sequence

from gateway.config import Client, PublishableKeyClient
from gateway.errors import OriginNotAllowed

_SAFE_METHODS = frozenset({"GET", "HEAD"})
"""Browsers leave `Origin` out of these where page and gateway share one (Fetch standard §3.2)."""


class Origins:
    """The origins of one configuration."""

    def __init__(self, clients: Iterable[Client]) -> None:
        self._all = frozenset(
            origin for client in clients if isinstance(client, PublishableKeyClient) for origin in client.origins
        )

    def allows_anyone(self, origin: str) -> bool:
        """Tell whether this is an origin of any client: for preflights, and for requests without a client."""
        return origin in self._all

    @staticmethod
    def is_allowed(client: Client, origin: str) -> bool:
        """Tell whether this is an origin of `client`. One with a secret key has none: its key belongs in no page."""
        return isinstance(client, PublishableKeyClient) and origin in client.origins


def check_origin(client: PublishableKeyClient, origins: Sequence[str], method: str) -> None:
    """Take a request with the client's key if it comes from a page of the client.

    `origins` are the request's `Origin` headers. Raises `OriginNotAllowed` for a foreign one, for `null`, for
    several, and for none, but on GET and HEAD.
    """
    if not origins and method in _SAFE_METHODS:
        return
    if not origins:
        raise OriginNotAllowed("The request has no `Origin`; a publishable key is for web pages only.")
    if len(origins) > 1 or not Origins.is_allowed(client, origins[0]):
        raise OriginNotAllowed
