"""Which pages may use a publishable key (interface §4 `origin-not-allowed`, §5)."""

import pytest

from gateway.access.origins import Origins, check_origin
from gateway.config import PublishableKeyClient, SecretKeyClient
from gateway.errors import OriginNotAllowed


def front_end(name: str, *origins: str) -> PublishableKeyClient:
    return PublishableKeyClient(
        id=name, publishable_key="qpk_" + name.ljust(43, "0"), origins=origins, scopes=["rates:read"]
    )


SHOP = front_end("shop", "https://shop.example", "https://shop.example:8443", "http://127.0.0.1:3000")
MARKET = front_end("market", "https://market.example")
ORDERS = SecretKeyClient(id="orders", key_sha256="0" * 64, scopes=["rates:read"])
ORIGINS = Origins([SHOP, ORDERS, MARKET])

FOREIGN = [
    "null", "", "*", "https://shop.example.evil.com", "https://evil-shop.example", "https://a.shop.example",
    "https://shop.example:443", "https://shop.example:8444", "http://shop.example", "https://shop.example/",
    "https://shop.example.", "https://user@shop.example", "https://shop.example@evil.com", "https://shop.example#",
    "https://shop.example?", "https://Shop.example", "HTTPS://shop.example", " https://shop.example",
    "https://shop.example ", "https://shop.example https://shop.example", "https://shop.example,https://shop.example",
    "shop.example", "//shop.example", "https://shop.examplé", "https://shop․example", "http://localhost:3000",
    "http://127.0.0.1", "file://", "https://",
]  # fmt: skip


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@pytest.mark.parametrize("origin", SHOP.origins)
def test_a_key_works_on_the_pages_of_its_client(origin: str, method: str) -> None:
    check_origin(SHOP, [origin], method)
    assert ORIGINS.is_allowed(SHOP, origin)
    assert ORIGINS.allows_anyone(origin)


@pytest.mark.parametrize("origin", FOREIGN)
def test_what_only_looks_like_an_origin_of_the_client_is_foreign(origin: str) -> None:
    for method in ("GET", "HEAD", "POST"):
        with pytest.raises(OriginNotAllowed):
            check_origin(SHOP, [origin], method)
    assert not ORIGINS.is_allowed(SHOP, origin)
    assert not ORIGINS.allows_anyone(origin)


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_another_clients_page_may_only_read_why_it_was_refused(method: str) -> None:
    with pytest.raises(OriginNotAllowed):
        check_origin(SHOP, ["https://market.example"], method)
    assert not ORIGINS.is_allowed(SHOP, "https://market.example")
    assert ORIGINS.allows_anyone("https://market.example")


def test_no_origin_is_fine_where_browsers_send_none() -> None:
    check_origin(SHOP, [], "GET")
    check_origin(SHOP, [], "HEAD")
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        with pytest.raises(OriginNotAllowed):
            check_origin(SHOP, [], method)


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("second", ["https://shop.example", "https://evil.example", "null"])
def test_several_origins_are_none(second: str, method: str) -> None:
    with pytest.raises(OriginNotAllowed):
        check_origin(SHOP, ["https://shop.example", second], method)


def test_a_secret_key_belongs_in_no_page() -> None:
    assert not ORIGINS.is_allowed(ORDERS, "https://shop.example")
    assert not Origins([ORDERS]).allows_anyone("https://shop.example")


def test_a_refusal_does_not_repeat_what_was_sent() -> None:
    with pytest.raises(OriginNotAllowed) as refused:
        check_origin(SHOP, ["https://evil.example"], "POST")
    assert "evil" not in f"{refused.value} {refused.value.detail}"
