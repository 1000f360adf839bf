"""Keys have the documented form, and only their hash needs to be kept."""

import hashlib

from gateway.clock import SystemClock
from gateway.config.keys import PUBLISHABLE_KEY, SECRET_KEY, SHA256_HEX, new_publishable_key, new_secret_key, sha256_hex


class HeldRandomness(SystemClock):
    def token_hex(self, nbytes: int) -> str:
        return "ff" * nbytes


def test_keys_match_their_form_and_differ() -> None:
    secret, other = new_secret_key(SystemClock()), new_secret_key(SystemClock())
    assert SECRET_KEY.fullmatch(secret.get_secret_value())
    assert PUBLISHABLE_KEY.fullmatch(new_publishable_key(SystemClock()))
    assert secret != other
    assert secret.get_secret_value() not in repr(secret)


def test_keys_come_from_the_clocks_randomness_alone() -> None:
    assert new_secret_key(HeldRandomness()).get_secret_value() == "qsk_" + "_" * 42 + "8"


def test_the_hash_is_of_the_whole_key_text() -> None:
    assert sha256_hex("qsk_x") == hashlib.sha256(b"qsk_x").hexdigest()
    assert SHA256_HEX.fullmatch(sha256_hex("qsk_x"))
