"""A real browser before a real shop: Debian's Chromium, driven by Playwright. All that it sends, gets and says is kept."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from anyio.from_thread import start_blocking_portal
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Error, Page, Request, Response, sync_playwright
from pydantic import SecretStr

from gateway.clock import SystemClock
from gateway.sandbox.storefront import StorefrontOptions, storefront_server
from gateway.server import bind
from tests.plugins.gateway import API_KEY, QUOTE_SECRET, SHOP_KEY, WEBHOOK_SECRET, example_config, front_end, running

SECRETS = (API_KEY, WEBHOOK_SECRET, QUOTE_SECRET)
PATIENCE = 30_000
"""Milliseconds that something may take on a busy machine."""


@dataclass
class Visit:
    """One visitor's browser, with cookies and storage of its own, and a record of all that passes."""

    context: BrowserContext
    seen: list[str] = field(default_factory=list)
    """Requests, answers, pages, storage and console, to be searched for secrets."""
    complaints: list[str] = field(default_factory=list)
    """Errors of scripts, and what the content security policy refused."""

    def __post_init__(self) -> None:
        self.context.set_default_timeout(PATIENCE)
        self.context.on("request", self._keep_request)
        self.context.on("response", self._keep_response)
        self.context.on("console", self._keep_console)
        self.context.on("weberror", lambda error: self.complaints.append(str(error.error)))

    def open(self, url: str) -> Page:
        """Open a page in a new tab."""
        page = self.context.new_page()
        page.goto(url)
        return page

    def _keep_request(self, request: Request) -> None:
        self.seen.append(f"{request.method} {request.url} {request.headers} {request.post_data}")

    def _keep_response(self, response: Response) -> None:
        self.seen.append(f"{response.url} {response.headers}")
        if "event-stream" not in response.headers.get("content-type", ""):
            with suppress(Error, UnicodeDecodeError):  # a body that the browser has let go of, or a picture
                self.seen.append(response.text())

    def _keep_console(self, message: ConsoleMessage) -> None:
        self.seen.append(message.text)
        if "Content Security Policy" in message.text:
            self.complaints.append(message.text)

    def keep_pages(self) -> None:
        """Keep what the open pages show and store."""
        for page in self.context.pages:
            self.seen.append(page.content())
            self.seen.append(str(page.evaluate("() => [{...localStorage}, {...sessionStorage}, document.cookie]")))


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """One browser for all tests; each has a context of its own."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("chromium is not installed")
    with sync_playwright() as playwright:
        # Without a sandbox of its own, which root cannot have; it sees nothing but these tests' pages.
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium: Browser, tmp_path: Path) -> Iterator[Callable[..., Visit]]:
    """Opens visits; at the end of the test all that passed in them is searched for secrets. Pictures are kept."""
    visits: list[Visit] = []

    def begin(**options: object) -> Visit:
        visits.append(Visit(chromium.new_context(**options)))
        return visits[-1]

    yield begin
    for number, one in enumerate(visits):
        one.keep_pages()
        for tab, page in enumerate(one.context.pages):
            page.screenshot(path=tmp_path / f"visit-{number}-{tab}.png", animations="disabled")
        one.context.close()
        for secret in SECRETS:
            assert not any(secret in text for text in one.seen), "a secret reached the browser"
        assert one.complaints == []


@contextmanager
def storefront(gateway_url: str, payment_page: str, sock) -> Iterator[str]:
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
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"


def shop_config(port: int) -> dict[str, object]:
    """Return a gateway.yaml whose front end is the shop at this port."""
    config = example_config()
    config["clients"][2] = front_end("storefront", SHOP_KEY, f"http://127.0.0.1:{port}", QUOTE_SECRET)
    return config


@pytest.fixture(scope="session")
def _session_shop(settings_of, _session_simulator) -> Iterator[str]:
    sock = bind("127.0.0.1", 0)
    with (
        running(settings_of(shop_config(sock.getsockname()[1]))) as outside,
        storefront(outside.url, f"{_session_simulator.url}/pay.php", sock) as origin,
    ):
        yield origin


@pytest.fixture
def shop(_session_shop: str, simulator, valkey) -> str:
    """The origin of a shop; its gateway is another one, with an empty store and QuantaPay."""
    return _session_shop
