"""A shop that really pays, in a real browser: across two origins, tampered with, reloaded, restarted under."""

import http.server
import re
import signal
import threading
from contextlib import contextmanager

import pytest
import yaml
from playwright.sync_api import expect

from gateway.server import bind
from tests.plugins.browser import PATIENCE, shop_config, storefront
from tests.plugins.gateway import SHOP_KEY, look_for_payments, quote
from tests.plugins.processes import free_port

pytestmark = pytest.mark.xdist_group("browser")
expect.set_options(timeout=PATIENCE)


def buy(page):
    page.get_by_role("button", name="Pay with crypto").click()
    expect(page.locator("#payment")).to_be_visible()
    expect(page.locator("#status")).to_have_attribute("data-status", "open")


def open_payment_page(page):
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="Open the payment page").click()
    opened.value.wait_for_load_state()
    return opened.value


def pay(page, valkey, button="Pay in full"):
    page.get_by_role("button", name=button).click()
    expect(page.get_by_role("status")).to_be_visible()
    look_for_payments(valkey)


def creates(simulator):
    return [call for call in simulator.calls() if call["function"] == "create-checkout-session"]


def test_a_customer_pays_and_sees_it_turn_paid(shop, visit, valkey, simulator):
    visitor = visit(viewport={"width": 1280, "height": 800})
    page = visitor.open(shop)
    buy(page)
    expect(page.get_by_role("img", name="QR code")).to_be_visible()
    assert page.locator("#qr").evaluate("image => image.naturalWidth") > 0
    payment = open_payment_page(page)
    assert payment.url.startswith(f"{simulator.url}/pay.php?")
    pay(payment, valkey)
    expect(page.locator("#status")).to_have_attribute("data-status", "paid")
    expect(page.get_by_role("status").filter(has_text="Paid")).to_be_visible()
    expect(page.locator("#calls")).to_contain_text("/checkout-sessions")
    assert len(creates(simulator)) == 1


def test_a_price_that_was_tampered_with_is_refused_before_everyones_eyes(shop, visit, simulator):
    page = visit().open(shop)
    page.get_by_role("button", name="Tamper with the price").click()
    result = page.locator("#tamper-result")
    expect(result).to_have_attribute("data-code", "invalid-quote")
    expect(result).to_contain_text("Refused")
    assert simulator.calls() == []


@contextmanager
def foreign_page():
    """Serve an empty page on another origin."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>Elsewhere</title>")

        def log_message(self, *_arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


FETCH = """async ([url, options]) => {
  try { const answer = await fetch(url, options); return [answer.status, await answer.text()]; }
  catch (error) { return error.name; }
}"""


def test_a_page_elsewhere_can_neither_start_nor_read_a_payment(shop, visit, simulator):
    visitor = visit()
    page = visitor.open(shop)
    with page.expect_response(re.compile("/checkout-sessions$")) as made:
        buy(page)
    session = made.value.json()
    gateway = made.value.url.removesuffix("/checkout-sessions")
    started = len(creates(simulator))
    with foreign_page() as elsewhere:
        thief = visit().open(elsewhere)
        key = {"Authorization": f"Bearer {SHOP_KEY}", "Content-Type": "application/json"}
        token = {"Authorization": f"Bearer {session['client_token']}"}
        for path, options in (
            ("/checkout-sessions", {"method": "POST", "headers": key, "body": str(quote()).replace("'", '"')}),
            (f"/checkout-sessions/{session['id']}", {"headers": token}),
            (f"/checkout-sessions/{session['id']}/events?token={session['client_token']}", {}),
            ("/exchange-rates/btc?currency=usd", {"headers": key}),
        ):
            assert thief.evaluate(FETCH, [gateway + path, options]) == "TypeError", path
        own = page.evaluate(FETCH, [f"{gateway}/checkout-sessions/{session['id']}", {"headers": token}])
        assert own[0] == 200, "the shop's own page can read what the other cannot"
    assert len(creates(simulator)) == started


def test_a_reload_and_a_second_tab_show_the_same_session(shop, visit, valkey, simulator):
    visitor = visit()
    page = visitor.open(shop)
    buy(page)
    link = page.locator("#payment-link").get_attribute("href")
    page.reload()
    expect(page.locator("#payment-link")).to_have_attribute("href", link)
    with page.expect_popup() as opened:
        page.evaluate("() => { window.open(location.href); }")  # a tab opened from here has the same storage
    second = opened.value
    expect(second.locator("#payment-link")).to_have_attribute("href", link)
    assert len(creates(simulator)) == 1
    pay(open_payment_page(page), valkey)
    for tab in (page, second):
        expect(tab.locator("#status")).to_have_attribute("data-status", "paid")


@pytest.mark.parametrize(
    ("edit", "button", "status"),
    [("", "Pay too little", "underpaid"), ("&price=0.01", "Pay in full", "needs_review")],
    ids=["too little", "an edited price"],
)
def test_what_is_not_the_price_is_not_paid(shop, visit, valkey, edit, button, status):
    page = visit().open(shop)
    buy(page)
    payment = open_payment_page(page)
    if edit:
        payment.goto(re.sub("&price=[0-9.]+", edit, payment.url))
        expect(payment.get_by_text("0.01 USD")).to_be_visible()
    pay(payment, valkey, button)
    expect(page.locator("#status")).to_have_attribute("data-status", status)


def test_who_leaves_the_payment_page_can_come_back(shop, visit):
    page = visit().open(shop)
    buy(page)
    payment = open_payment_page(page)
    payment.get_by_role("button", name="Leave").click()
    expect(payment.get_by_role("status")).to_contain_text("Nothing was paid")
    payment.get_by_role("link", name="back to the checkout").click()
    expect(payment.get_by_role("button", name="Pay in full")).to_be_visible()


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "drained"])
def test_watching_goes_on_through_a_restart_of_the_gateway(start_gateway, visit, valkey, simulator, tmp_path, end):
    sock, port = bind("127.0.0.1", 0), str(free_port())
    (tmp_path / "gateway.yaml").write_text(yaml.safe_dump(shop_config(sock.getsockname()[1])))
    gateway = start_gateway(GATEWAY_PORT=port)
    with storefront(gateway.url, f"{simulator.url}/pay.php", sock) as shop:
        page = visit().open(shop)
        buy(page)
        payment = open_payment_page(page)
        gateway.send(end)
        gateway.process.wait()
        start_gateway(GATEWAY_PORT=port)
        pay(payment, valkey)
        expect(page.locator("#status")).to_have_attribute("data-status", "paid")


def test_it_works_on_a_phone_by_keyboard_and_for_ears(shop, visit, valkey):
    page = visit(viewport={"width": 360, "height": 740}, has_touch=True).open(shop)
    button = page.get_by_role("button", name="Pay with crypto")
    expect(button).to_be_visible()
    for _ in range(10):
        page.keyboard.press("Tab")
        if button.evaluate("button => button === document.activeElement"):
            break
    page.keyboard.press("Enter")
    expect(page.locator("#payment")).to_be_visible()
    expect(page.locator("#payment-title")).to_be_focused()
    expect(page.get_by_role("status").first).to_be_visible()
    assert page.locator("#status").get_attribute("aria-live") == "polite"
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth"), "it scrolls sideways"
    assert page.evaluate("() => [...document.images].every(image => image.alt)"), "a picture without words"
    payment = open_payment_page(page)
    assert payment.evaluate("() => document.documentElement.scrollWidth <= innerWidth"), "it scrolls sideways"
    expect(payment.get_by_label("Pay with")).to_be_visible()
    payment.get_by_role("button", name="Pay in full").focus()
    payment.keyboard.press("Enter")
    expect(payment.get_by_role("status")).to_be_visible()
    look_for_payments(valkey)
    expect(page.locator("#status")).to_have_attribute("data-status", "paid")
