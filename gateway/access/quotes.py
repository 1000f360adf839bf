"""Quotes: how a shop's server lets a browser start one payment, at one price (interface §3.5, docs/quotes.md)."""

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import SecretStr

from gateway.errors import InvalidQuote, QuoteExpired

VERSION = "qpg-quote-v1"
MOST_AGE = 300
"""Seconds from now, either way, at which a quote is still good."""


@dataclass(frozen=True, slots=True)
class Quote:
    """A priced order, every text exactly as it was sent: `49.9` and `49.90` are two quotes.

    Raises ValueError for a text with a `|` in it, because two different orders could then share one signature.
    """

    client_id: str
    price: str
    currency: str
    order_id: str
    timestamp: int
    """When it was signed, in Unix seconds."""

    def __post_init__(self) -> None:
        if any("|" in text for text in (self.client_id, self.price, self.currency, self.order_id)):
            raise ValueError("A signed text cannot hold the separator `|`")

    @property
    def text(self) -> str:
        """Return what is signed, as UTF-8."""
        return f"{VERSION}|{self.client_id}|{self.price}|{self.currency}|{self.order_id}|{self.timestamp}"


def sign(quote: Quote, secret: SecretStr) -> str:
    """Return the HMAC-SHA256 of the quote's text, in lower-case hex (64 digits)."""
    return hmac.new(secret.get_secret_value().encode(), _utf8(quote.text), hashlib.sha256).hexdigest()


def verify(quote: Quote, signature: str, secrets: Sequence[SecretStr], *, now: float) -> None:
    """Take a quote that was signed with one of `secrets` at most five minutes from `now` (Unix seconds).

    Raises `InvalidQuote`, or `QuoteExpired` if only its time is wrong: the signature goes first, so that nobody
    learns about the clock without the secret.
    """
    # All of them are compared: how long it takes must not tell which secret came close.
    matches = [hmac.compare_digest(sign(quote, secret).encode(), _utf8(signature)) for secret in secrets]
    if not any(matches):
        raise InvalidQuote
    if abs(now - quote.timestamp) > MOST_AGE:
        raise QuoteExpired


def _utf8(text: str) -> bytes:
    """Encode any text, half a surrogate pair too: a signature over what has no UTF-8 is wrong, not a fault of ours."""
    return text.encode(errors="surrogatepass")
