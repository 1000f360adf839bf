"""A shop that really pays, in a real browser: across two origins, tampered with, reloaded, restarted under."""

import json
import re
import signal

import pytest
import yaml

from gateway.server import bind
from tests.plugins.browser import expect, shop_config, storefront
from tests.plugins.gateway import SHOP_KEY, look_for_payments, quote
from tests.plugins.processes import free_port, until

pytestmark = pytest.mark.xdist_group("browser")

REFUSED = "status of 403"
CONFLICT = "status of 409"
UNREADABLE = "CORS policy|net::ERR_FAILED"
CUT_OFF = r"net::ERR_\w+"
"""What Chromium writes into the console by itself, of answers that a test provokes."""


def start(page, press):
    """Start the payment; try again, as the page offers, if a busy machine misses Redis's time."""
    press()
    for _ in range(20):
        expect(page.locator("#payment:visible, #failure:visible:not(:empty)").first).to_be_visible()
        if page.locator("#payment").is_visible():
            break
        page.get_by_role("button", name="Try again").click()
    expect_status(page, "open")


def buy(page):
    start(page, page.get_by_role("button", name="Pay with crypto").click)


def open_payment_page(page):
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="Open the payment page").click()
    return opened.value


def pay(page, button="Pay in full"):
    page.get_by_role("button", name=button).click()
    expect(page.get_by_role("status")).to_contain_text("Payment seen")


def expect_status(page, status):
    expect(page.locator("#status")).to_have_attribute("data-status", status)
    expect(page.locator("#status")).to_be_visible()


def wait_for_status(page, valkey, status):
    """Wait for what a payment leads to. Reconciliation is not kept waiting: twice a second its pause ends."""

    def is_so():
        look_for_payments(valkey)
        return page.locator(f"#status[data-status={status}]").is_visible()

    until(is_so, f"the page shows {status}", every=0.5)


def creates(simulator):
    return [call for call in simulator.calls() if call["function"] == "create-checkout-session"]


def test_a_customer_pays_and_sees_it_turn_paid(shop, visit, valkey, simulator, tmp_path):
    visitor = visit(viewport={"width": 1280, "height": 800})
    page = visitor.open(shop.origin)
    created = f"{shop.gateway}/checkout-sessions"
    with page.expect_response(lambda answer: answer.url == created and answer.ok) as made:
        buy(page)
    code = page.get_by_role("img", name="QR code of the payment page")
    expect(code).to_be_visible()
    expect(code).not_to_have_js_property("naturalWidth", 0)
    payment = open_payment_page(page)
    assert payment.url.startswith(f"{simulator.url}/pay.php?")
    pay(payment)
    wait_for_status(page, valkey, "paid")
    expect(page.get_by_role("status").filter(has_text="Paid. Thank you!")).to_be_visible()
    assert len(creates(simulator)) == 1
    session = made.value.json()
    visitor.photograph(tmp_path, "paid")
    seen = visitor.end()
    # The record is whole: what a browser may see is in it, from the first request to the last event of the stream.
    assert SHOP_KEY in seen
    assert f"Bearer {session['client_token']}" in seen
    assert re.search(f'data: .*{session["id"]}.*"status": ?"paid"', seen)
    to_gateway = [call for call in calls_in(visitor) if shop.gateway in call and "/sdk/" not in call]
    assert set(to_gateway) == {f"POST {created}", f"GET {created}/{session['id']}/events"}, "a stream, and no polling"


def calls_in(visitor):
    entries = json.loads(visitor.har.read_text())["log"]["entries"]
    return [f"{entry['request']['method']} {entry['request']['url']}" for entry in entries]


def test_a_price_that_was_tampered_with_is_refused_before_everyones_eyes(shop, visit, simulator):
    page = visit(may_say=REFUSED).open(shop.origin)
    page.get_by_role("button", name="Tamper with the price").click()
    result = page.locator("#tamper-result")
    expect(result).to_have_attribute("data-code", "invalid-quote")
    expect(result).to_contain_text("Refused: 403 invalid-quote")
    expect(result).to_be_visible()
    assert simulator.calls() == []


def test_a_quote_changed_on_its_way_is_refused_and_the_next_one_is_taken(shop, visit, simulator):
    page = visit(may_say=REFUSED).open(shop.origin)

    def make_it_cheap(route):
        answer = route.fetch()
        route.fulfill(response=answer, json={**answer.json(), "price": "0.01"})

    page.route("**/quote", make_it_cheap)
    page.get_by_role("button", name="Pay with crypto").click()
    expect(page.get_by_role("alert")).to_contain_text("exactly as they were signed")
    assert simulator.calls() == []
    page.unroute("**/quote")
    start(page, page.get_by_role("button", name="Try again").click)
    expect(page.locator("#amount")).to_have_text("49.99 USD")


FETCH = """async ([url, options]) => {
  try { const answer = await fetch(url, options); return [answer.status, await answer.text()]; }
  catch (error) { return error.name; }
}"""


@pytest.mark.parametrize("whose", ["market", "nobody"])
def test_a_page_elsewhere_can_neither_start_nor_read_a_payment(shop, visit, valkey, simulator, whose):
    own = visit().open(shop.origin)
    thief = visit(may_say=f"{UNREADABLE}|{REFUSED}").open(shop.elsewhere[whose])
    key = {"Authorization": f"Bearer {SHOP_KEY}"}
    sessions = f"{shop.gateway}/checkout-sessions"
    json_type = {"Content-Type": "application/json"}
    create = [sessions, {"method": "POST", "headers": {**key, **json_type}, "body": json.dumps(quote())}]
    assert thief.evaluate(FETCH, create) == "TypeError"
    assert thief.evaluate(FETCH, [f"{shop.gateway}/exchange-rates/btc?currency=usd", {"headers": key}]) == "TypeError"
    assert simulator.calls() == []
    with valkey.client() as redis:
        assert redis.keys("qpg:session:*") == []

    status, body = own.evaluate(FETCH, create)
    assert status == 201, f"the shop's own page may do the same: {body}"
    session = json.loads(body)
    token = {"Authorization": f"Bearer {session['client_token']}"}
    for path in ("", "/events"):
        assert thief.evaluate(FETCH, [f"{sessions}/{session['id']}{path}", {"headers": token}]) == "TypeError"
    assert own.evaluate(FETCH, [f"{sessions}/{session['id']}", {"headers": token}])[0] == 200


def test_a_reload_and_a_second_tab_show_the_same_session(shop, visit, valkey, simulator):
    page = visit(may_say=f"{CONFLICT}|{CUT_OFF}").open(shop.origin)
    buy(page)
    link = page.locator("#payment-link").get_attribute("href")
    start(page, page.reload)
    expect(page.locator("#payment-link")).to_have_attribute("href", link)
    with page.expect_popup() as opened:
        page.evaluate("() => { window.open(location.href); }")  # a tab opened from here has the same storage
    second = opened.value
    start(second, second.wait_for_load_state)
    expect(second.locator("#payment-link")).to_have_attribute("href", link)
    assert len(creates(simulator)) == 1
    pay(open_payment_page(page))
    for tab in (page, second):
        wait_for_status(tab, valkey, "paid")
    page.reload()
    wait_for_status(page, valkey, "paid")
    assert len(creates(simulator)) == 1


def test_who_leaves_can_come_back_and_who_pays_too_little_can_pay_again(shop, visit, valkey):
    page = visit().open(shop.origin)
    buy(page)
    payment = open_payment_page(page)
    checkout = payment.url
    payment.get_by_role("button", name="Leave").click()
    expect(payment.get_by_role("status")).to_contain_text("Nothing was paid")
    payment.get_by_role("link", name="back to the checkout").click()
    pay(payment, "Pay too little")
    wait_for_status(page, valkey, "underpaid")
    expect(page.locator("#status")).to_contain_text("Less arrived than the price")
    payment.goto(checkout)
    pay(payment)
    wait_for_status(page, valkey, "paid")


def test_a_price_edited_in_the_payment_pages_address_is_not_taken_for_paid(shop, visit, valkey):
    page = visit().open(shop.origin)
    buy(page)
    payment = open_payment_page(page)
    assert "&price=49.99&" in payment.url
    payment.goto(payment.url.replace("&price=49.99&", "&price=0.01&"))
    expect(payment.get_by_text("0.01 USD")).to_be_visible()
    pay(payment)
    wait_for_status(page, valkey, "needs_review")
    expect(page.locator("#status")).to_contain_text("does not match the price")


@pytest.mark.usefixtures("unmeasured")
def test_watching_goes_on_through_restarts_of_the_gateway(start_gateway, visit, valkey, simulator, tmp_path):
    sock, port = bind("127.0.0.1", 0), str(free_port())
    config = shop_config(f"http://127.0.0.1:{sock.getsockname()[1]}")
    (tmp_path / "gateway.yaml").write_text(yaml.safe_dump(config))
    gateway = start_gateway(GATEWAY_PORT=port)
    with storefront(gateway.url, f"{simulator.url}/pay.php", sock) as origin:
        visitor = visit(may_say=f"{CUT_OFF}|{CONFLICT}")
        visitor.context.add_init_script("Math.random = () => 0")  # the SDK waits half as long before it tries again
        page = visitor.open(origin)
        buy(page)
        page.evaluate("() => { window.isStillTheSamePage = true; }")
        payment = open_payment_page(page)
        for end, button, status in (
            (signal.SIGKILL, "Pay too little", "underpaid"),
            (signal.SIGTERM, "Pay in full", "paid"),
        ):
            until(lambda running=gateway: running.total("gateway_event_streams") == 1, "the page watches")
            gateway.send(end)
            gateway.process.wait(20)
            gateway = start_gateway(GATEWAY_PORT=port)
            payment.reload()
            pay(payment, button)
            wait_for_status(page, valkey, status)
            payment.get_by_role("link", name="back to the checkout").click()
        assert page.evaluate("() => window.isStillTheSamePage"), "it was loaded again"


def assert_fits(page):
    width = page.evaluate("() => [document.documentElement.scrollWidth, visualViewport.width]")
    assert width == [360, 360], f"it scrolls sideways: {width}"


def test_everything_fits_on_a_phone(shop, visit, valkey):
    page = visit(
        viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True, may_say=REFUSED
    ).open(shop.origin)  # fmt: skip
    assert_fits(page)
    page.get_by_role("button", name="Tamper with the price").tap()
    expect(page.locator("#tamper-result")).to_contain_text("Refused")
    button = page.get_by_role("button", name="Pay with crypto")
    button.scroll_into_view_if_needed()
    expect(button).to_be_in_viewport(ratio=1)
    start(page, button.tap)
    assert_fits(page)
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="Open the payment page").tap()
    payment = opened.value
    expect(payment.get_by_role("button", name="Pay in full")).to_be_in_viewport(ratio=1)
    assert_fits(payment)
    payment.get_by_role("button", name="Pay in full").tap()
    expect(payment.get_by_role("status")).to_contain_text("Payment seen")
    assert_fits(payment)
    wait_for_status(page, valkey, "paid")
    assert_fits(page)


def tab_to(page, target):
    for _ in range(30):
        page.keyboard.press("Tab")
        if target.evaluate("element => element === document.activeElement"):
            return
    pytest.fail(f"the tab key does not lead to {target}")


def assert_all_have_names(page):
    """What Chromium tells a screen reader: each picture, link and control has a name, and no live region is missing."""
    assert page.locator("html").get_attribute("lang") == "en"
    nodes = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    roles = {"button", "combobox", "image", "link", "RootWebArea"}
    named = [
        (node["role"]["value"], node["name"]["value"])
        for node in nodes
        if not node["ignored"] and node["role"]["value"] in roles
    ]
    assert {role for role, _ in named} >= {"button", "RootWebArea"}
    assert all(name.strip() for _, name in named), named


def test_a_customer_can_pay_by_keyboard_and_by_ear(shop, visit, valkey):
    page = visit().open(shop.origin)
    assert_all_have_names(page)
    tab_to(page, page.get_by_role("button", name="Pay with crypto"))
    start(page, lambda: page.keyboard.press("Enter"))
    expect(page.get_by_role("heading", name="Your payment")).to_be_focused()
    status = page.locator("#status")
    expect(status).to_have_role("status")
    expect(status).to_have_attribute("aria-live", "polite")
    expect(status).to_have_text("Waiting for your payment.")
    assert_all_have_names(page)
    tab_to(page, page.get_by_role("link", name="Open the payment page in a new tab"))
    with page.context.expect_page() as opened:
        page.keyboard.press("Enter")
    payment = opened.value
    expect(payment.get_by_label("Pay with")).to_be_visible()
    assert_all_have_names(payment)
    tab_to(payment, payment.get_by_role("button", name="Pay in full"))
    payment.keyboard.press("Enter")
    expect(payment.get_by_role("status")).to_contain_text("Payment seen")
    wait_for_status(page, valkey, "paid")
    expect(status).to_have_text("Paid. Thank you!")
