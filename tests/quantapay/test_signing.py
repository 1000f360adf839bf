"""Checkout signing (contract §5)."""

import hashlib
from dataclasses import asdict, dataclass, replace

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from gateway.quantapay.signing import checkout_signature

patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""On a fresh checkout the first text drawn waits for hypothesis to build its table of characters."""

FIELDS = st.text(st.characters(exclude_characters="|", exclude_categories=["Cs"]), max_size=40)
SECRETS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200)


@dataclass(frozen=True)
class Order:
    price: str
    currency: str
    order_id: str
    timestamp: str

    def signed_with(self, secret: str) -> str:
        return checkout_signature(SecretStr(secret), **asdict(self))


ORDERS = st.builds(Order, price=FIELDS, currency=FIELDS, order_id=FIELDS, timestamp=FIELDS)
VECTOR = Order(price="49.99", currency="usd", order_id="ORD-12345", timestamp="1700000000")


def hmac_sha256(key: bytes, message: bytes) -> str:
    """RFC 2104 by hand, so that the oracle shares no code with what it checks."""
    block = (hashlib.sha256(key).digest() if len(key) > 64 else key).ljust(64, b"\0")
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in block) + message).digest()
    return hashlib.sha256(bytes(byte ^ 0x5C for byte in block) + inner).hexdigest()


def test_the_documented_vector_signs_as_documented():
    expected = "7ca38e2d5396c4e760173ab61835503eeaa7b16f73d3bcec80212c113e8d8c2d"

    assert VECTOR.signed_with("your-webhook-secret-key") == expected


def test_a_timestamp_signs_the_same_as_a_number_and_as_text():
    secret = SecretStr("s")
    rest = {"price": "1", "currency": "usd", "order_id": "a"}

    assert checkout_signature(secret, **rest, timestamp=1700000000) == checkout_signature(
        secret, **rest, timestamp="1700000000"
    )


@patient
@given(SECRETS, ORDERS)
def test_every_signature_is_the_hmac_of_the_four_texts_as_they_are(secret, order):
    message = f"{order.price}|{order.currency}|{order.order_id}|{order.timestamp}"

    assert order.signed_with(secret) == hmac_sha256(secret.encode(), message.encode())


@patient
@given(ORDERS, ORDERS)
def test_different_orders_never_share_a_signature_even_if_their_texts_join_to_the_same(order, other):
    assume(order != other)

    assert order.signed_with("secret") != other.signed_with("secret")


@patient
@given(ORDERS, st.sampled_from(["price", "currency", "order_id", "timestamp"]), st.integers(0, 40))
def test_moving_a_boundary_between_two_fields_changes_the_signature(order, name, cut):
    names = [*asdict(order)]
    following = names[(names.index(name) + 1) % len(names)]
    whole = getattr(order, name) + getattr(order, following)
    moved = replace(order, **{name: whole[:cut], following: whole[cut:]})
    assume(moved != order)

    assert moved.signed_with("secret") != order.signed_with("secret")


def test_trailing_zeros_and_letter_case_are_signed_as_they_are_sent():
    variants = [VECTOR, replace(VECTOR, price="49.990"), replace(VECTOR, currency="USD")]

    assert len({order.signed_with("secret") for order in variants}) == 3


@pytest.mark.parametrize("name", ["price", "currency", "order_id", "timestamp"])
def test_a_separator_within_a_field_is_refused_without_quoting_it(name):
    with pytest.raises(ValueError, match="separator") as refused:
        replace(VECTOR, **{name: "canary|x"}).signed_with("secret")

    assert "canary" not in str(refused.value)
