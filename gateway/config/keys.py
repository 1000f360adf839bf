"""The format of the keys that callers hold (interface §2.2).

A secret key is `qsk_` and 43 base64url characters (32 random bytes); a publishable one the same with `qpk_`. Of a
secret key the configuration holds only the SHA-256 of its whole text: 256 random bits need no slow hash.
"""

import base64
import hashlib
import re

from pydantic import SecretStr

from gateway.clock import Clock

SECRET_KEY_PREFIX = "qsk_"  # noqa: S105 - the public beginning of every secret key
PUBLISHABLE_KEY_PREFIX = "qpk_"
RANDOM_BYTES = 32

SECRET_KEY = re.compile(r"qsk_[A-Za-z0-9_-]{43}")
PUBLISHABLE_KEY = re.compile(r"qpk_[A-Za-z0-9_-]{43}")
SHA256_HEX = re.compile(r"[0-9a-f]{64}")


def new_secret_key(clock: Clock) -> SecretStr:
    """Make a secret key; print it once and keep `sha256_hex` of it."""
    return SecretStr(SECRET_KEY_PREFIX + _random_text(clock))


def new_publishable_key(clock: Clock) -> str:
    """Make a publishable key; it stands in web pages and is no secret."""
    return PUBLISHABLE_KEY_PREFIX + _random_text(clock)


def sha256_hex(key: str) -> str:
    """Return what `key_sha256` holds: the SHA-256 of the whole key text, prefix included, in lower-case hex."""
    return hashlib.sha256(key.encode()).hexdigest()


def _random_text(clock: Clock) -> str:
    random = bytes.fromhex(clock.token_hex(RANDOM_BYTES))
    return base64.urlsafe_b64encode(random).decode().rstrip("=")
