"""Who is calling: secret keys, of which the gateway knows only the SHA-256."""

import hmac
from collections import defaultdict
from collections.abc import Iterable

from gateway.config import Client, SecretKeyClient
from gateway.config.keys import SECRET_KEY, sha256_hex

_INDEX_LENGTH = 16
"""Hex digits of a hash that narrow the search; the rest is compared in constant time."""


class Keyring:
    """The secret keys of one configuration, by their hashes."""

    def __init__(self, clients: Iterable[Client]) -> None:
        self._by_index: defaultdict[str, list[tuple[str, SecretKeyClient]]] = defaultdict(list)
        for client in clients:
            if not isinstance(client, SecretKeyClient):
                continue
            for digest in client.key_sha256:
                self._by_index[digest[:_INDEX_LENGTH]].append((digest, client))

    def client_of(self, key: str) -> SecretKeyClient | None:
        """Return the client whose key this is; during a rotation either of its two keys is right."""
        if not SECRET_KEY.fullmatch(key):
            return None
        digest = sha256_hex(key)
        for known, client in self._by_index.get(digest[:_INDEX_LENGTH], ()):
            if hmac.compare_digest(known, digest):
                return client
        return None
