"""The status page in a real browser: what it says, to whom it says it, and that it never passes old news for new."""

import asyncio
from collections.abc import Iterator
from contextlib import asynccontextmanager, contextmanager
from copy import deepcopy
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal
from prometheus_client import CollectorRegistry

from gateway.clock import SystemClock
from gateway.routes.ops import create_ops_app
from gateway.server import Listener, bind
from tests.plugins.browser import expect
from tests.plugins.processes import free_port

pytestmark = pytest.mark.xdist_group("browser")

NO_ANSWER = r"net::ERR_\w+"
REFUSED_BY_POLICY = "Content Security Policy"
"""What Chromium writes into the console by itself, of what a test provokes."""
SINCE = "#clock"
POLL = 2_000
"""Milliseconds from one answer to the next question."""

CALM: dict[str, Any] = {
    "version": "1.2.3",
    "ready": True,
    "workers": {"expected": 2, "answering": 2, "phases": ["ready", "ready"]},
    "store": {"up": True, "embedded": False, "processes_seen": 6},
    "upstream": {"last_outcomes": {"get-balances": "ok", "get-transaction": "upstream-rejected"}},
    "breakers": {"connect": "closed", "get-balances": "closed"},
    "budget": {"limit": 1200, "remaining": 1100, "shared": True},
    "backlog": {"orders": {"waiting": 3, "age_seconds": 4.2, "dead_letters": 0}},
    "clock_skew_seconds": -1.26,
    "configuration": {"clients": 4, "newest_in_force": True},
}

TROUBLES = [
    ({"ready": False, "workers": {"expected": 2, "answering": 1, "phases": ["ready"]}},
     "Service", "Only 1 of 2 workers answer."),
    ({"ready": False, "workers": {"expected": 1, "answering": 1, "phases": ["draining"]}},
     "Service", "The gateway is stopping."),
    ({"ready": False, "workers": {"expected": 1, "answering": 1, "phases": ["starting"]}},
     "Service", "The gateway is not ready yet."),
    ({"store": {"up": False, "embedded": True, "processes_seen": 1}}, "Redis", "Redis does not answer."),
    ({"upstream": {"last_outcomes": {"get-balances": "upstream-timeout"}}},
     "QuantaPay", "The last call of get-balances failed."),
    ({"breakers": {"connect": "half-open"}}, "QuantaPay", "connect is left alone."),
    ({"clock_skew_seconds": 61.0}, "QuantaPay", "QuantaPay’s clock and ours are far apart."),
    ({"budget": {"limit": 100, "remaining": 29, "shared": False}},
     "Budget of calls", "The budget of calls to QuantaPay is nearly spent."),
    ({"backlog": {"orders": {"waiting": 9, "age_seconds": 901, "dead_letters": 0}}},
     "Events to subscribers", "Events to orders have been waiting for long."),
    ({"backlog": {"orders": {"waiting": 0, "age_seconds": 0, "dead_letters": 2}}},
     "Events to subscribers", "Events to orders were given up: see the dead letters."),
    ({"configuration": {"clients": 4, "newest_in_force": False}},
     "Configuration", "The newest configuration was not taken."),
]  # fmt: skip


class Ops:
    """The operators' listener of a gateway whose state a test chooses."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/"
        self.status: Any = deepcopy(CALM)

    async def _registry(self) -> CollectorRegistry:
        return CollectorRegistry()

    async def _status(self) -> Any:
        return self.status

    @asynccontextmanager
    async def _served(self):
        app = create_ops_app(registry=self._registry, status=self._status, clock=SystemClock())
        listener = Listener(app, bind("127.0.0.1", self.port), lifespan=False, grace=1)
        task = asyncio.create_task(listener.run_until_stopped())
        try:
            yield
        finally:
            listener.should_exit = True
            await task

    @contextmanager
    def running(self) -> Iterator[None]:
        with start_blocking_portal("asyncio") as portal, portal.wrap_async_context_manager(self._served()):
            yield


@pytest.fixture
def ops() -> Iterator[Ops]:
    """A listener that runs, of a gateway without a trouble."""
    ops = Ops()
    with ops.running():
        yield ops


def follow(visitor, ops):
    """Open the page with a clock that `pass_time` can put forward."""
    visitor.context.clock.install()
    return visitor.open(ops.url)


def pass_time(page):
    """Let the page ask again at once."""
    page.clock.run_for(POLL)


def card(page, title):
    return page.get_by_role("region", name=title, exact=True)


def test_it_shows_what_a_real_gateway_knows(gateway, visit):
    assert gateway.http.get("/balances").status_code == 200
    page = visit().open(f"{gateway.ops_url}/")
    known = gateway.ops("/status").json()
    expect(page.get_by_text("Live: asked every two seconds.")).to_be_visible()
    expect(card(page, "Service")).to_contain_text("1 of 1 answer")
    expect(card(page, "Redis")).to_contain_text("shared by all replicas")
    expect(card(page, "Budget of calls")).to_contain_text("1,000,000 calls")
    expect(card(page, "QuantaPay").get_by_role("row", name="get-balances")).to_contain_text("good")
    expect(card(page, "Events to subscribers")).to_contain_text("There is no subscriber.")
    expect(card(page, "Configuration")).to_contain_text(str(known["configuration"]["clients"]))
    expect(page.get_by_role("heading", level=1)).to_contain_text(known["version"])


def test_a_calm_gateway_is_in_order_and_every_fact_is_in_words(ops, visit):
    page = visit().open(ops.url)
    expect(page.get_by_role("heading", name="All in order")).to_be_visible()
    expect(page).to_have_title("All in order · QuantaPay gateway")
    expect(page.locator(".badge")).to_have_text(["in order"] * 6)
    expect(card(page, "Service")).to_contain_text("2 ready")
    expect(card(page, "QuantaPay")).to_contain_text("1.3 s behind ours")
    rows = card(page, "QuantaPay").get_by_role("row")
    expect(rows.nth(1)).to_have_text("connect–closed")
    expect(rows.nth(2)).to_have_text("get-balancesgoodclosed")
    expect(rows.nth(3)).to_have_text("get-transactionrefused: upstream-rejected–")
    expect(card(page, "Events to subscribers").get_by_role("row").nth(1)).to_have_text("orders34 s0")
    expect(card(page, "Budget of calls")).to_contain_text("1,100 of 1,200 calls")


def test_each_trouble_is_said_in_words_where_it_is_and_at_the_top_until_it_is_over(ops, visit):
    page = follow(visit(), ops)
    verdict = page.locator("#verdict")
    for change, title, sentence in TROUBLES:
        ops.status = {**CALM, **change}
        pass_time(page)
        expect(verdict).to_contain_text(sentence)
        expect(page.get_by_role("heading", name="1 to look at")).to_be_visible()
        expect(card(page, title).locator(".badge")).to_have_text("needs attention")
        expect(page.locator(".badge.bad")).to_have_count(1)
    ops.status = CALM
    pass_time(page)
    expect(page.get_by_role("heading", name="All in order")).to_be_visible()
    expect(verdict.get_by_role("listitem")).to_have_count(0)


def test_when_the_gateway_stops_it_says_so_and_since_when_and_goes_on_when_it_is_back(visit):
    ops = Ops()
    visitor = visit(may_say=NO_ANSWER)
    with ops.running():
        page = follow(visitor, ops)
        expect(page.locator("#contact")).to_have_text("Live: asked every two seconds.")
        pass_time(page)
    expect(page.locator("#contact")).to_contain_text("Contact lost. What stands below is from then.")
    since = page.locator(SINCE).get_attribute("datetime")
    pass_time(page)
    pass_time(page)
    expect(page.get_by_text("No answer since:")).to_be_visible()
    assert page.locator(SINCE).get_attribute("datetime") == since
    expect(page).to_have_title("Contact lost · QuantaPay gateway")
    expect(card(page, "Service")).to_contain_text("2 of 2 answer")
    for calming in ("in order", "All in order"):
        expect(page.get_by_text(calming, exact=True).first).to_be_hidden()
    ops.status["workers"] = {"expected": 1, "answering": 1, "phases": ["ready"]}
    with ops.running():
        pass_time(page)
        expect(page.locator("#contact")).to_have_text("Live: asked every two seconds.")
        expect(card(page, "Service")).to_contain_text("1 of 1 answer")
        assert page.locator(SINCE).get_attribute("datetime") > since


@pytest.mark.parametrize("answer", [None, {**CALM, "backlog": None}], ids=["nothing", "half of it"])
def test_an_answer_that_makes_no_sense_is_no_contact(ops, visit, answer):
    ops.status = answer
    page = visit().open(ops.url)
    expect(page.locator("#contact")).to_have_text("Contact lost. Trying again every two seconds.")
    expect(page.locator("#facts")).to_be_hidden()


def test_names_are_texts_whatever_they_say(ops, visit):
    name = "<img src=x onerror=document.title='owned'><script>document.title='owned'</script>"
    ops.status["backlog"] = {name: {"waiting": 1, "age_seconds": 7200, "dead_letters": 1}}
    ops.status["breakers"] = {name: "open", "__proto__": "closed"}
    ops.status["upstream"] = {"last_outcomes": {name: name}}
    page = visit().open(ops.url)
    expect(card(page, "Events to subscribers").get_by_role("rowheader")).to_have_text(name)
    expect(card(page, "QuantaPay").get_by_role("rowheader").first).to_have_text(name)
    expect(page.locator("#verdict")).to_contain_text(f"{name} is left alone.")
    expect(page).to_have_title("3 to look at · QuantaPay gateway")
    assert page.locator("img, main script").count() == 0


def test_it_loads_nothing_from_elsewhere_and_runs_no_script_but_its_own(ops, visit):
    asked: list[str] = []
    visitor = visit(may_say=REFUSED_BY_POLICY)
    visitor.context.on("request", lambda request: asked.append(request.url))
    page = visitor.open(ops.url)
    expect(page.locator("#facts")).to_be_visible()
    assert {url for url in asked if not url.startswith("data:")} == {ops.url, f"{ops.url}status"}
    page.evaluate("document.body.append(Object.assign(document.createElement('script'), {textContent: 'ran = 1'}))")
    page.evaluate("document.body.setAttribute('onclick', 'ran = 1')")
    page.locator("body").click(position={"x": 2, "y": 2})
    assert page.evaluate("typeof ran") == "undefined"
    assert any(REFUSED_BY_POLICY in text for text in visitor._seen)


def test_what_stays_the_same_is_not_said_again(ops, visit):
    page = follow(visit(), ops)
    expect(page.locator("#facts")).to_be_visible()
    page.evaluate("""() => {
        window.changed = [];
        const note = (records) => window.changed.push(...records.map(({target}) => (target.id || target.tagName)));
        new MutationObserver(note).observe(document.body, {subtree: true, childList: true, characterData: true});
    }""")
    for _ in range(3):
        with page.expect_response("**/status"):
            pass_time(page)
    assert set(page.evaluate("changed")) <= {"clock"}
    ops.status["ready"] = False
    pass_time(page)
    expect(page.get_by_role("status").filter(has_text="1 to look at")).to_be_visible()
    for region in page.get_by_role("status").all():
        expect(region).to_have_attribute("aria-live", "polite")


def test_without_javascript_it_says_where_the_state_is(ops, visit):
    page = visit(java_script_enabled=False).context.new_page()
    page.goto(ops.url)
    expect(page.get_by_text("This page needs JavaScript")).to_be_visible()
    expect(page.locator("#contact")).to_be_empty()
    link = page.locator("#unscripted").get_by_role("link", name="status")
    assert page.request.get(f"{ops.url}{link.get_attribute('href')}").json() == CALM


@pytest.mark.parametrize("colors", ["light", "dark"])
def test_it_fits_a_phone_and_can_be_read_by_day_and_by_night(ops, visit, colors):
    long = "a-subscriber-with-a-very-long-name-" * 3
    ops.status["backlog"] = {long: {"waiting": 123_456, "age_seconds": 200_000, "dead_letters": 99_999}}
    page = visit(viewport={"width": 320, "height": 640}, color_scheme=colors).open(ops.url)
    expect(page.get_by_role("rowheader", name=long)).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == 320
    for selector in ("body", ".card dt", ".card dd", ".badge:not(.bad)", ".badge.bad", ".card a, footer a"):
        assert page.evaluate(_CONTRAST, selector) >= 4.5, selector  # WCAG 2.2, 1.4.3


_CONTRAST = """(selector) => {
    const channels = (color) => color.match(/[0-9.]+/g).slice(0, 3).map(Number);
    const light = (color) => channels(color)
        .map((value) => value / 255)
        .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
        .reduce((sum, value, index) => sum + value * [0.2126, 0.7152, 0.0722][index], 0);
    const element = document.querySelector(selector);
    const ground = getComputedStyle(element.closest(".card") ?? document.body).backgroundColor;
    const [high, low] = [light(getComputedStyle(element).color), light(ground)].sort((a, b) => b - a);
    return (high + 0.05) / (low + 0.05);
}"""
"""The contrast of a text to what is behind it (WCAG 2.2)."""
