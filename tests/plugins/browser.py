"""A real browser before a real shop: Debian's Chromium, driven by Playwright. All that it sends, gets and says is kept."""

import base64
import http.server
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from re import search
from socket import socket
from typing import TYPE_CHECKING, Any

import pytest
from anyio.from_thread import start_blocking_portal
from pydantic import SecretStr

from gateway.clock import SystemClock
from gateway.sandbox.storefront import StorefrontOptions, storefront_server
from gateway.server import bind
from tests.plugins.gateway import (
    MARKER,
    MARKET_KEY,
    MARKET_SECRET,
    QUOTE_SECRET,
    SHOP_KEY,
    example_config,
    front_end,
    running,
)

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page

PATIENCE = 30_000
"""Milliseconds that something may take on a busy machine."""
_STORED = "() => JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])"
BUSY = "status of 503"
"""In the console when a busy machine misses Redis's time: any visitor may see that, and tries again."""
_failed = pytest.StashKey[bool]()


def expect(actual: Any) -> Any:
    """Return Playwright's assertions, which wait. Imported late: most runs of the suite need no browser."""
    from playwright import sync_api

    return sync_api.expect(actual)


@dataclass
class Visit:
    """One visitor: a browser with cookies and storage of its own, and a record of all that passes."""

    context: "BrowserContext"
    har: Path
    """Written at the end: every request and answer, with headers and bodies."""
    may_say: str
    """A pattern of errors in the console that belong to the test. Any other is a complaint."""
    complaints: list[str] = field(default_factory=list)
    """Errors of scripts and of the console, among them what the content security policy refused."""
    _seen: list[str] = field(default_factory=list)
    _streams: dict[str, bytes] = field(default_factory=dict)
    """Bodies of event streams by the browser's id of the request. The HAR has none that the page itself cuts off."""
    _is_open: bool = True

    def __post_init__(self) -> None:
        self.context.set_default_timeout(PATIENCE)
        self.context.on("console", self._keep_console)
        self.context.on("weberror", lambda error: self.complaints.append(str(error.error)))
        self.context.on("page", self._keep_streams)

    def open(self, url: str) -> "Page":
        """Open a page in a new tab."""
        page = self.context.new_page()
        page.goto(url)
        return page

    def photograph(self, folder: Path, name: str) -> None:
        """Take a picture of every tab."""
        for tab, page in enumerate(self.context.pages):
            page.screenshot(path=folder / f"{name}-{tab}.png", animations="disabled", full_page=True)

    def end(self) -> str:
        """Close the tabs, and return all that was sent, received, shown, stored and said. Call it as often as needed."""
        if self._is_open:
            self._is_open = False
            try:
                for page in self.context.pages:
                    self._seen += [page.url, page.content(), page.evaluate(_STORED)]
            finally:
                self.context.close()
            self._seen += [self.har.read_text(), *self._decoded_bodies()]
            self._seen += [body.decode(errors="replace") for body in self._streams.values()]
        return "\n".join(self._seen)

    def _decoded_bodies(self) -> Iterator[str]:
        for entry in json.loads(self.har.read_text())["log"]["entries"]:
            content = entry["response"]["content"]
            if content.get("encoding") == "base64":
                yield base64.b64decode(content["text"]).decode(errors="replace")
            else:
                yield content.get("text", "")

    def _keep_streams(self, page: "Page") -> None:
        from playwright import sync_api

        devtools = self.context.new_cdp_session(page)

        def keep(request_id: str, data: str) -> None:
            self._streams[request_id] = self._streams.get(request_id, b"") + base64.b64decode(data)

        def begin(event: dict[str, Any]) -> None:
            if event["response"]["mimeType"] == "text/event-stream":
                key = {"requestId": event["requestId"]}
                with suppress(sync_api.Error):  # the page has ended it already
                    keep(event["requestId"], devtools.send("Network.streamResourceContent", key)["bufferedData"])

        devtools.on("Network.responseReceived", begin)
        devtools.on("Network.dataReceived", lambda event: keep(event["requestId"], event.get("data", "")))
        devtools.send("Network.enable")

    def _keep_console(self, message: "ConsoleMessage") -> None:
        self._seen.append(message.text)
        if message.type in {"error", "warning"} and not search(self.may_say, message.text):
            self.complaints.append(message.text)


@pytest.fixture(scope="module")
def chromium() -> Iterator["Browser"]:
    """One browser for the tests of a module; each has a context of its own.

    Not for the session: while Playwright runs, this thread has a running event loop, and async tests cannot start one.
    """
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("chromium is not installed")
    sync_api.expect.set_options(timeout=PATIENCE)
    with sync_api.sync_playwright() as playwright:
        # Without a sandbox of its own, which root cannot have; it sees nothing but these tests' pages.
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    """Note which tests failed, for pictures of what their visitors saw."""
    report = yield
    if report.when == "call":
        item.stash[_failed] = report.failed
    return report


@pytest.fixture
def visit(chromium: "Browser", tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[..., Visit]]:
    """Opens visits; at the end, no secret may be in anything that passed, and the console must be as expected."""
    visits: list[Visit] = []

    def begin(*, may_say: str = BUSY, **options: object) -> Visit:
        har = tmp_path / f"visit-{len(visits)}.har"
        context = chromium.new_context(record_har_path=har, record_har_content="embed", **options)
        visits.append(Visit(context, har, f"{BUSY}|{may_say}"))
        return visits[-1]

    yield begin
    with ExitStack() as stack:
        for one in visits:
            stack.callback(one.end)
        if request.node.stash.get(_failed, True):
            for number, one in enumerate(visits):
                one.photograph(tmp_path, f"failed-{number}")
    for one in visits:
        assert MARKER not in one.end(), "a secret reached the browser"
        assert one.complaints == []


@contextmanager
def storefront(gateway_url: str, payment_page: str, sock: socket) -> Iterator[str]:
    """Run the shop's server on `sock`; yield its origin."""
    options = StorefrontOptions(
        gateway=gateway_url,
        payment_page=payment_page,
        client_id="storefront",
        publishable_key=SHOP_KEY,
        quote_secret=SecretStr(QUOTE_SECRET),
    )
    with (
        start_blocking_portal("asyncio") as portal,
        portal.wrap_async_context_manager(storefront_server(options, sock, SystemClock())),
    ):
        yield _origin(sock)


@contextmanager
def empty_page() -> Iterator[int]:
    """Serve an empty page on a free port of 127.0.0.1; yield the port."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b'<!doctype html><html lang="en"><link rel="icon" href="data:,"><title>Elsewhere</title>')

        def log_message(self, *_arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        serving.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            serving.join()


def shop_config(shop: str, market: str = "http://127.0.0.1:1") -> dict[str, object]:
    """Return a gateway.yaml whose two front ends are the shop and the market at these origins."""
    config = example_config()
    config["clients"][2:] = [
        front_end("storefront", SHOP_KEY, shop, QUOTE_SECRET),
        front_end("market", MARKET_KEY, market, MARKET_SECRET),
    ]
    return config


@dataclass(frozen=True)
class Shop:
    """A shop's world: origins of its page, of its gateway, and of pages that are not the shop's."""

    origin: str
    gateway: str
    elsewhere: dict[str, str]
    """`market`, a page of another client's of the gateway, and `nobody`, which no client has named."""


@pytest.fixture(scope="module")
def _module_shop(settings_of, _session_simulator, log_lines) -> Iterator[Shop]:
    sock = bind("127.0.0.1", 0)
    with empty_page() as port:
        elsewhere = {"market": f"http://127.0.0.1:{port}", "nobody": f"http://localhost:{port}"}
        with (
            running(settings_of(shop_config(_origin(sock), elsewhere["market"]))) as outside,
            storefront(outside.url, f"{_session_simulator.url}/pay.php", sock) as origin,
        ):
            yield Shop(origin, outside.url, elsewhere)


@pytest.fixture
def shop(_module_shop: Shop, simulator, valkey) -> Shop:
    """A shop before a gateway of its own, with an empty store and QuantaPay."""
    return _module_shop


def _origin(sock: socket) -> str:
    return f"http://127.0.0.1:{sock.getsockname()[1]}"
