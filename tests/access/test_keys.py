"""Who a key belongs to."""

import pytest

from gateway.access.keys import Keyring
from gateway.config import PublishableKeyClient, SecretKeyClient
from gateway.config.keys import sha256_hex

SECRET, NEWER_SECRET = "qsk_" + "a" * 43, "qsk_" + "b" * 43
PUBLISHABLE, NEWER_PUBLISHABLE = "qpk_" + "a" * 43, "qpk_" + "b" * 43

ORDERS = SecretKeyClient(id="orders", key_sha256=(sha256_hex(SECRET), sha256_hex(NEWER_SECRET)), scopes=["rates:read"])
SHOP = PublishableKeyClient(
    id="shop",
    publishable_key=(PUBLISHABLE, NEWER_PUBLISHABLE),
    origins=["https://shop.example"],
    scopes=["rates:read"],
)
KEYRING = Keyring([ORDERS, SHOP])


@pytest.mark.parametrize(
    ("key", "client"),
    [(SECRET, ORDERS), (NEWER_SECRET, ORDERS), (PUBLISHABLE, SHOP), (NEWER_PUBLISHABLE, SHOP)],
)
def test_either_key_of_a_rotation_is_its_clients(key: str, client: object) -> None:
    assert KEYRING.client_of(key) is client


@pytest.mark.parametrize(
    "key",
    [
        "", "qsk_", "qpk_", PUBLISHABLE[:-1], PUBLISHABLE + "a", PUBLISHABLE + "\n", " " + PUBLISHABLE,
        PUBLISHABLE.upper(), "QPK_" + "a" * 43, "qpk_" + "c" * 43, "qsk_" + "c" * 43, "qpk_" + "ä" * 43,
        "cst_" + "a" * 43, sha256_hex(SECRET), sha256_hex(PUBLISHABLE), "orders", "shop",
    ],
)  # fmt: skip
def test_anything_else_is_nobodys(key: str) -> None:
    assert KEYRING.client_of(key) is None


def test_keys_whose_hashes_begin_alike_are_told_apart() -> None:
    digest = sha256_hex(SECRET)
    neighbour = ORDERS.model_copy(update={"id": "neighbour", "key_sha256": (digest[:-1] + "x",)})
    assert Keyring([neighbour, ORDERS]).client_of(SECRET) is ORDERS


def test_a_publishable_key_never_opens_a_client_with_a_secret_key() -> None:
    """Even if somebody lists its hash: the key stands in a web page."""
    careless = ORDERS.model_copy(update={"key_sha256": (sha256_hex(PUBLISHABLE),)})
    assert Keyring([careless]).client_of(PUBLISHABLE) is None
    assert Keyring([careless, SHOP]).client_of(PUBLISHABLE) is SHOP


def test_clients_are_found_by_their_ids() -> None:
    assert (KEYRING.client("orders"), KEYRING.client("shop"), KEYRING.client("nobody")) == (ORDERS, SHOP, None)
    assert Keyring([]).client("orders") is None
    assert Keyring([]).client_of(SECRET) is None
