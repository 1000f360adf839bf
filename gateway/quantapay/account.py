"""Names for an account and an endpoint in Redis keys, from which nothing can be read back."""

import hashlib

from pydantic import SecretStr


def account_id(url: str, api_key: SecretStr) -> str:
    """Name a merchant's account: what one account is answered must never be answered for another."""
    return _digest("account", url, api_key.get_secret_value())


def endpoint_id(url: str) -> str:
    """Name QuantaPay's endpoint, for the budget of calls to it.

    Without the key: while a key is replaced, replicas with the old one and the new one are the same merchant.
    """
    return _digest("endpoint", url)


def _digest(*texts: str) -> str:
    return hashlib.sha256("\n".join(("qpg-v1", *texts)).encode()).hexdigest()[:16]
