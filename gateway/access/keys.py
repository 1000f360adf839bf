"""Who is calling: secret keys, of which the gateway knows only the SHA-256, and publishable keys."""

import hmac
from collections import defaultdict
from collections.abc import Iterable, Sequence

from gateway.config import Client, PublishableKeyClient, SecretKeyClient
from gateway.config.keys import PUBLISHABLE_KEY, SECRET_KEY, sha256_hex

_INDEX_LENGTH = 16
"""Hex digits of a hash that narrow the search; the rest is compared in constant time."""

_FORMS = ((SECRET_KEY, SecretKeyClient), (PUBLISHABLE_KEY, PublishableKeyClient))
"""What a key looks like, by the kind of client that it can belong to."""


class Keyring:
    """The clients of one configuration, by their ids and by the hashes of their keys."""

    def __init__(self, clients: Iterable[Client]) -> None:
        self._clients = {client.id: client for client in clients}
        self._by_index: defaultdict[str, list[tuple[str, Client]]] = defaultdict(list)
        for client in self._clients.values():
            for digest in _digests(client):
                self._by_index[digest[:_INDEX_LENGTH]].append((digest, client))

    def client(self, client_id: str) -> Client | None:
        """Return the client with this id."""
        return self._clients.get(client_id)

    def client_of(self, key: str) -> Client | None:
        """Return the client whose key this is; during a rotation either of its two keys is right."""
        for form, kind in _FORMS:
            if form.fullmatch(key):
                digest = sha256_hex(key)
                for known, client in self._by_index.get(digest[:_INDEX_LENGTH], ()):
                    if hmac.compare_digest(known, digest) and isinstance(client, kind):
                        return client
        return None


def _digests(client: Client) -> Sequence[str]:
    if isinstance(client, SecretKeyClient):
        return client.key_sha256
    return [sha256_hex(key) for key in client.publishable_key]
