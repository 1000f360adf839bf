"""The signature of a checkout session (contract §5)."""

import hashlib
import hmac

from pydantic import SecretStr


def checkout_signature(secret: SecretStr, *, price: str, currency: str, order_id: str, timestamp: str | int) -> str:
    """Return the HMAC-SHA256, in lower-case hex, of `price|currency|order_id|timestamp` in UTF-8.

    `secret` is the webhook secret key, `timestamp` Unix seconds. Every text must be exactly the one that is sent:
    `49.9` and `49.90` sign differently. Raises ValueError for a text with a `|` in it, because two different
    orders would then share one signature.
    """
    fields = (price, currency, order_id, str(timestamp))
    if any("|" in field for field in fields):
        raise ValueError("A signed field cannot hold the separator `|`")
    message = "|".join(fields).encode()
    return hmac.new(secret.get_secret_value().encode(), message, hashlib.sha256).hexdigest()
