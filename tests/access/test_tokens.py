"""A token opens the one session that it was made for (interface §3.5)."""

import base64
import hashlib
import hmac

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import SecretStr

from gateway.access.tokens import client_token, is_token, opens

SESSION, OTHER_SESSION = "cs_" + "0" * 32, "cs_" + "0" * 31 + "1"
SECRET, OLDER = SecretStr("quote-secret-of-the-storefront-now"), SecretStr("quote-secret-of-the-storefront-then")
TOKEN = client_token(SESSION, SECRET)


def test_a_token_is_the_hmac_of_the_interface() -> None:
    digest = hmac.new(SECRET.get_secret_value().encode(), f"qpg-session-v1|{SESSION}".encode(), hashlib.sha256).digest()
    assert "cst_" + base64.urlsafe_b64encode(digest).decode().rstrip("=") == TOKEN
    assert is_token(TOKEN)


@given(st.text(max_size=40), st.text(max_size=40))
def test_every_session_has_its_own(one: str, other: str) -> None:
    assume(one.encode(errors="replace") == one.encode(errors="ignore"))
    assume(other.encode(errors="replace") == other.encode(errors="ignore"))
    assert (client_token(one, SECRET) == client_token(other, SECRET)) == (one == other)


def test_a_token_opens_its_session_with_either_secret_of_a_rotation() -> None:
    for secret in (SECRET, OLDER):
        assert opens(client_token(SESSION, secret), SESSION, [SECRET, OLDER])
    assert not opens(TOKEN, SESSION, [OLDER])
    assert not opens(TOKEN, SESSION, [])
    assert not opens(client_token(SESSION, SecretStr("")), SESSION, [])


@pytest.mark.parametrize(
    "token",
    [
        "", "cst_", TOKEN[:-1], TOKEN + "A", TOKEN + "=", TOKEN + "\n", f" {TOKEN}", TOKEN.upper(), TOKEN[4:],
        TOKEN.replace("cst_", "cs_"), "cst_" + "é" * 43, "cst_" + "\ud800" * 43, f"{TOKEN},{TOKEN}",
        client_token(OTHER_SESSION, SECRET), client_token(SESSION, OLDER), SESSION, "cst_" + "A" * 43,
    ],
)  # fmt: skip
def test_nothing_else_opens_it(token: str) -> None:
    assert not opens(token, SESSION, [SECRET])


def test_a_token_has_one_spelling() -> None:
    """The last of its characters holds two spare bits, which base64 readers ignore."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    assert [last for last in alphabet if opens(TOKEN[:-1] + last, SESSION, [SECRET])] == [TOKEN[-1]]


@pytest.mark.parametrize(
    "text", ["", "cst_", "cst_" + "a" * 42, "cst_" + "a" * 44, "cst_" + "a" * 42 + "+", "qpk_" + "a" * 43, TOKEN + "\n"]
)
def test_what_is_no_token_is_told_by_its_form(text: str) -> None:
    assert not is_token(text)
