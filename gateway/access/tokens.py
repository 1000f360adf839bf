"""Client tokens: what lets the browser that made a checkout session look at it, and at no other (interface §3.5)."""

import base64
import hashlib
import hmac
import re
from collections.abc import Sequence

from pydantic import SecretStr

PREFIX = "cst_"
VERSION = "qpg-session-v1"
TOKEN = re.compile(r"cst_[A-Za-z0-9_-]{43}")


def client_token(session_id: str, secret: SecretStr) -> str:
    """Return the token of a session: `cst_` and 43 base64url characters, made with the client's quote secret.

    It is computed and never stored, so it can be given out again and ends when its secret is replaced.
    """
    made = hmac.new(secret.get_secret_value().encode(), f"{VERSION}|{session_id}".encode(), hashlib.sha256)
    return PREFIX + base64.urlsafe_b64encode(made.digest()).decode().rstrip("=")


def is_token(text: str) -> bool:
    """Tell whether a text has the form of a token; it may still open nothing."""
    return TOKEN.fullmatch(text) is not None


def opens(token: str, session_id: str, secrets: Sequence[SecretStr]) -> bool:
    """Tell whether this is the token of the session, made with one of `secrets`; in constant time."""
    if not is_token(token):
        return False
    # All of them are compared: how long it takes must not tell which secret came close.
    matches = [hmac.compare_digest(client_token(session_id, secret), token) for secret in secrets]
    return any(matches)
