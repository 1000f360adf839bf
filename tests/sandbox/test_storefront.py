"""The shop of the sandbox, on a real socket: what it signs, what it shows, what it keeps to itself."""

import hashlib
import hmac
import re
import xml.etree.ElementTree as ET

import httpx
import pytest
from anyio.from_thread import start_blocking_portal
from pydantic import SecretStr

from gateway.sandbox.storefront import StorefrontOptions, shop, storefront_server
from gateway.server import bind
from tests.plugins.gateway import ShiftedClock

GATEWAY = "http://127.0.0.1:8080"
PAYMENT_PAGE = "http://127.0.0.1:8090/pay.php"
KEY = "qpk_" + "shop".ljust(43, "0")
SECRET = "quote-secret-of-the-shop-that-nobody-else-has"
OPTIONS = StorefrontOptions(
    gateway=GATEWAY,
    payment_page=PAYMENT_PAGE,
    client_id="storefront",
    publishable_key=KEY,
    quote_secret=SecretStr(SECRET),
)
PAGES = ["/", "/settings.js", "/shop.js", "/view.js", "/calls.js", "/shop.css", "/lamp.svg", "/icon.svg"]


@pytest.fixture(scope="module")
def clock():
    return ShiftedClock()


@pytest.fixture(scope="module")
def http(clock):
    with start_blocking_portal("asyncio") as portal:
        sock = bind("127.0.0.1", 0)
        server = storefront_server(OPTIONS, sock, clock)
        base = f"http://127.0.0.1:{sock.getsockname()[1]}"
        with portal.wrap_async_context_manager(server), httpx.Client(base_url=base) as client:
            yield client


def signature(order_id, timestamp, price="49.99"):
    text = f"qpg-quote-v1|storefront|{price}|usd|{order_id}|{timestamp}"
    return hmac.new(SECRET.encode(), text.encode(), hashlib.sha256).hexdigest()


def test_each_quote_is_for_a_new_order_and_signed_as_documented(http, clock):
    before = int(clock.time())
    first, second = [http.post("/quote").json() for _ in range(2)]
    assert first["order_id"] != second["order_id"]
    for quote in (first, second):
        assert quote.keys() == {"price", "currency", "order_id", "timestamp", "signature"}
        assert (quote["price"], quote["currency"]) == ("49.99", "usd")
        assert before <= quote["timestamp"] <= clock.time()
        assert quote["signature"] == signature(quote["order_id"], quote["timestamp"])


def test_an_order_is_quoted_again_with_a_new_time(http, clock):
    first = http.post("/quote").json()
    clock.ahead += 600.0
    again = http.post("/quote", json={"order_id": first["order_id"]}).json()
    assert again["order_id"] == first["order_id"]
    assert again["timestamp"] >= first["timestamp"] + 600
    assert again["signature"] == signature(again["order_id"], again["timestamp"])


def test_an_order_of_somebody_else_is_not_quoted(http):
    for order_id in ("ORD-1", "LAMP-00000000"):
        answer = http.post("/quote", json={"order_id": order_id})
        assert answer.status_code == 404
        assert "signature" not in answer.text


@pytest.mark.parametrize(
    "body",
    [b"{", b"[]", b'{"price": "0.01"}', b'{"order_id": "a", "price": "0.01"}', b'{"order_id": 7}', b"\xff", b"1" * 5000,
     b'{"order_id": "' + b"a" * 50 + b'"}'],
)  # fmt: skip
def test_a_browser_cannot_name_a_price_or_confuse_the_shop(http, body):
    answer = http.post("/quote", content=body)
    assert answer.status_code == 400
    assert "signature" not in answer.text


def test_old_orders_are_forgotten_when_there_are_too_many(clock, monkeypatch):
    monkeypatch.setattr(shop, "_MOST_ORDERS", 2)
    busy = shop.Shop(OPTIONS, clock)
    order_ids = [busy.open_order() for _ in range(3)]
    assert [busy.quote(order_id) is not None for order_id in order_ids] == [False, True, True]


def test_the_payment_page_is_drawn_as_a_code(http):
    answer = http.get("/qr.svg", params={"url": f"{PAYMENT_PAGE}?checkout_id=cs-1&price=49.99"})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/svg+xml"
    svg = ET.fromstring(answer.text)
    assert svg.tag == "{http://www.w3.org/2000/svg}svg"
    side = int(svg.attrib["viewBox"].split()[2])
    assert side >= 21 + 2 * 4
    other = http.get("/qr.svg", params={"url": f"{PAYMENT_PAGE}?checkout_id=cs-2&price=49.99"})
    assert other.text != answer.text


@pytest.mark.parametrize(
    "url",
    ["", "https://evil.example/pay.php?", f"{PAYMENT_PAGE}", f"{PAYMENT_PAGE}.evil.example/?", "javascript:alert(1)",
     f"{PAYMENT_PAGE}?{'a' * 1000}", f"{PAYMENT_PAGE}?é", f" {PAYMENT_PAGE}?a"],
)  # fmt: skip
def test_no_other_address_is_drawn(http, url):
    answer = http.get("/qr.svg", params={"url": url})
    assert answer.status_code == 400
    assert "<svg" not in answer.text
    assert http.get("/qr.svg").status_code == 400


def test_the_page_may_load_from_itself_and_the_gateway_only(http):
    for path in [*PAGES, "/nothing", "/qr.svg"]:
        headers = http.get(path).headers
        assert headers["content-security-policy"] == (
            f"default-src 'none'; script-src 'self' {GATEWAY}; connect-src 'self' {GATEWAY}; img-src 'self'; "
            "style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["x-content-type-options"] == "nosniff"


def test_nothing_in_the_page_needs_more_than_that(http):
    page = http.get("/").text
    assert re.findall(r"<script\b[^>]*>(.*?)</script>", page, re.DOTALL) == [""]
    assert not re.search(r"<style|\sstyle=|\son\w+=", page)
    for path in re.findall(r'(?:src|href)="(/[^"]+)"', page):
        assert http.get(path).status_code == 200, path
    for path in PAGES[2:5]:
        source = http.get(path).text
        for module in re.findall(r'from "\.(/[^"]+)"', source):
            assert http.get(module).headers["content-type"].startswith("text/javascript"), module
        for markup in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "console."):
            assert markup not in source


def test_the_page_is_labelled_for_who_cannot_see_it(http):
    page = http.get("/").text
    assert '<html lang="en">' in page
    ids = re.findall(r'\sid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'aria-labelledby="([^"]+)"', page)) <= set(ids)
    assert all('alt="' in image for image in re.findall(r"<img[^>]*>", page))
    assert re.search(r'id="status" role="status" aria-live="polite"', page)
    view = http.get("/view.js").text
    shop_module = http.get("/shop.js").text
    assert set(re.findall(r'find\("([^"]+)"\)', view) + re.findall(r'onClick\("([^"]+)"', shop_module)) <= set(ids)


def test_the_publishable_key_is_in_the_page_and_the_secret_is_nowhere(http):
    seen = [http.get(path) for path in PAGES]
    seen += [http.post("/quote"), http.post("/quote", content=b"{"), http.get("/quote")]
    assert any(KEY in answer.text for answer in seen)
    for answer in seen:
        assert SECRET not in f"{answer.headers} {answer.text}"
    assert SECRET not in repr(OPTIONS)


@pytest.mark.parametrize("path", ["/nothing", "/index.html", "/shop.py", "/..%2Fshop.py", "/__init__.py"])
def test_nothing_else_is_served(http, path):
    assert http.get(path).status_code == 404
