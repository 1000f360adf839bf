"""The edge of deploy/nginx, for real: Debian's nginx with a certificate, before a gateway on real sockets."""

import http.client
import http.server
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from gateway.http.problems import PROBLEM_TYPES
from tests.plugins.gateway import (
    MARKER,
    ORDERS_KEY,
    QUOTE_SECRET,
    SHOP,
    SHOP_KEY,
    Outside,
    example_config,
    front_end,
    quote,
    running,
)
from tests.plugins.processes import free_port, until

NGINX_CONF = Path(__file__).parents[2] / "deploy" / "nginx" / "nginx.conf"
EDGE = "127.0.0.1"
PATIENCE = 30.0
TITLES = {code: problem.title for code, problem in PROBLEM_TYPES.items()}


@dataclass(frozen=True)
class Edge:
    """A running nginx. What it logs is in `log`."""

    url: str
    tls: ssl.SSLContext
    log: Path

    def client(self, address: str = "127.0.0.2", key: str | None = ORDERS_KEY, **headers: str) -> httpx.Client:
        """Return a client that calls from an address of its own; close it."""
        transport = httpx.HTTPTransport(verify=self.tls, local_address=address)
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        return httpx.Client(base_url=self.url, headers=headers, transport=transport, timeout=20)


def certificate(folder: Path) -> None:
    """Make a certificate for localhost that its own key has signed."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "2"]
    files = ["-keyout", folder / "tls.key", "-out", folder / "tls.crt"]
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    subprocess.run(["openssl", "req", "-x509", *kind, *subject, *files], check=True, capture_output=True)


def adapted(folder: Path, port: int, gateway_port: int) -> str:
    """Return nginx.conf with this test's places instead of the container's; each must be there to be replaced."""
    text = NGINX_CONF.read_text(encoding="utf-8")
    places = {
        r"/tmp/": f"{folder}/",
        r"listen 8443 ": f"listen {EDGE}:{port} ",
        r"server 172\.30\.80\.11:8080 ": f"server 127.0.0.1:{gateway_port} ",
        r" *server 172\.30\.80\.12:8080 .*\n": "",
        r"/etc/nginx/tls/": f"{folder}/",
        r"/dev/std(out|err)": f"{folder}/log",
    }
    for place, ours in places.items():
        text, count = re.subn(place, ours, text)
        assert count, place
    return text


@contextmanager
def edge_before(folder: Path, gateway_port: int) -> Iterator[Edge]:
    program = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
    if program is None:
        pytest.skip("nginx is not installed")
    certificate(folder)
    port = free_port()
    (folder / "nginx.conf").write_text(adapted(folder, port, gateway_port), encoding="utf-8")
    # As root nginx would give its directories to another user, who may not enter the test's folder.
    alone = f"daemon off; {'user root;' if os.geteuid() == 0 else ''}"
    command = [program, "-p", folder, "-c", folder / "nginx.conf", "-g", alone]
    with (folder / "said").open("wb") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said)
    try:
        until(lambda: answers(process, port, folder / "said"), "nginx listens", every=0.01)
        tls = ssl.create_default_context(cafile=folder / "tls.crt")
        yield Edge(f"https://localhost:{port}", tls, folder / "log")
    finally:
        process.terminate()
        process.wait(10)


def answers(process: subprocess.Popen[bytes], port: int, said: Path) -> bool:
    assert process.poll() is None, said.read_text()
    with socket.socket() as probe:
        return probe.connect_ex((EDGE, port)) == 0


@pytest.fixture(scope="module")
def _world(settings_of, _session_simulator, log_lines, tmp_path_factory) -> Iterator[tuple[Edge, Outside]]:
    config = example_config()
    config["clients"][2] = front_end("storefront", SHOP_KEY, SHOP, QUOTE_SECRET, rate_limit_per_ip="3/hour")
    with (
        running(settings_of(config, trusted_proxies=f"{EDGE}/32")) as outside,
        edge_before(tmp_path_factory.mktemp("edge"), int(outside.url.rpartition(":")[2])) as edge,
    ):
        yield edge, outside


@pytest.fixture
def edge(_world: tuple[Edge, Outside], simulator, valkey) -> Edge:
    """An nginx before a gateway that believes it, with an empty store."""
    return _world[0]


def test_an_event_of_an_open_stream_arrives_and_its_token_is_not_logged(edge: Edge) -> None:
    with edge.client(key=SHOP_KEY, Origin=SHOP) as browser, edge.client(key=None) as event_source:
        made = browser.post("/checkout-sessions", json=quote())
        assert made.status_code == 201
        path = f"/checkout-sessions/{made.json()['id']}/events?token={made.json()['client_token']}"
        with event_source.stream("GET", path) as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            event = next(lines for lines in stream.iter_text() if "data:" in lines)
            assert json.loads(event.partition("data: ")[2].splitlines()[0])["status"] == "open"
    until(lambda: path.partition("?")[0] in edge.log.read_text(), "the request is in nginx's log")
    assert made.json()["client_token"] not in edge.log.read_text()


def test_the_address_that_counts_is_the_callers_whatever_it_claims(edge: Edge) -> None:
    shop = {"key": SHOP_KEY, "Origin": SHOP}
    with edge.client("127.0.0.2", **shop) as first, edge.client("127.0.0.3", **shop) as second:
        lies = [{"X-Forwarded-For": f"203.0.113.{number}"} for number in range(4)]
        asked = [first.get("/exchange-rates/btc?currency=usd", headers=lie).status_code for lie in lies]
        assert asked == [200, 200, 200, 429]
        assert second.get("/exchange-rates/btc?currency=usd").status_code == 200


@pytest.mark.parametrize(("size", "problem"), [(65_000, "malformed-request"), (65_537, "request-too-large")])
def test_a_body_can_have_as_many_bytes_as_the_gateway_takes(edge: Edge, size: int, problem: str) -> None:
    with edge.client() as client:
        answer = client.post("/checkout-sessions", content=b"x" * size, headers={"Content-Type": "application/json"})
        assert answer.headers["content-type"].startswith("application/problem+json")
        assert answer.json()["code"] == problem
        assert answer.headers["x-request-id"] == answer.json()["request_id"]


def test_what_nginx_answers_itself_is_a_problem_of_the_gateways_kind(tmp_path: Path) -> None:
    nobody = free_port()
    with edge_before(tmp_path, nobody) as edge, edge.client() as client:
        away = client.get(f"/checkout-sessions/cs_1/events?token=cst_{MARKER}")
        large = client.post("/balances", content=b"x" * 70_000)
        assert (away.status_code, large.status_code) == (503, 413)
        for answer in (away, large):
            body = answer.json()
            assert answer.headers["content-type"] == "application/problem+json"
            assert (body["status"], body["title"]) == (answer.status_code, TITLES[body["code"]])
            assert answer.headers["x-request-id"] == body["request_id"]
            assert answer.headers["cache-control"] == "no-store"
            assert "max-age" in answer.headers["strict-transport-security"]
        assert int(away.headers["retry-after"]) == away.json()["retry_after"]
    assert '"path":"/checkout-sessions/cs_1/events"' in edge.log.read_text()
    assert MARKER not in edge.log.read_text(), "a token of the query string"


def test_only_https_is_spoken_and_only_today_s(edge: Edge) -> None:
    plain = httpx.get(edge.url.replace("https", "http") + "/livez")
    assert plain.status_code == 400, "no redirect: the key was sent in clear already"
    with edge.client() as client:
        answer = client.get("/livez")
        assert answer.status_code == 200
        assert "max-age" in answer.headers["strict-transport-security"]
        assert answer.headers["server"] == "nginx", "without its version"
    assert "ssl_protocols TLSv1.2 TLSv1.3;" in NGINX_CONF.read_text(encoding="utf-8")


class Upstream(http.server.ThreadingHTTPServer):
    """Stands for a gateway: counts connections, keeps headers, and holds what ends in /events open."""

    daemon_threads = True

    def __init__(self) -> None:
        self.connections = 0
        self.headers: list[http.client.HTTPMessage] = []
        self.release = threading.Event()
        super().__init__((EDGE, 0), Answer)

    def get_request(self) -> tuple[socket.socket, object]:
        self.connections += 1
        return super().get_request()


class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Upstream

    def do_GET(self) -> None:
        self.server.headers.append(self.headers)
        self.send_response(200)
        self.send_header("Content-Length", "9")
        self.end_headers()
        self.wfile.write(b"data")
        self.wfile.flush()
        if self.path.endswith("/events"):
            self.server.release.wait(PATIENCE)
        self.wfile.write(b": 1\n\n")

    def log_message(self, *_arguments: object) -> None:
        pass


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as server:
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        serving.start()
        yield server
        server.release.set()
        server.shutdown()
        serving.join()


def test_connections_are_kept_and_headers_are_nginx_s_own(tmp_path: Path, upstream: Upstream) -> None:
    lies = {"X-Forwarded-For": "203.0.113.7", "X-Forwarded-Proto": "http", "Forwarded": "for=203.0.113.7"}
    with edge_before(tmp_path, upstream.server_port) as edge, edge.client(**lies) as client:
        for _ in range(4):
            assert client.get("/livez").text == "data: 1\n\n"
    # nginx's workers keep connections each for itself.
    assert upstream.connections <= 2 < len(upstream.headers)
    for headers in upstream.headers:
        assert headers.get_all("X-Forwarded-For") == ["127.0.0.2"]
        assert headers.get_all("X-Forwarded-Proto") == ["https"]
        assert headers.get_all("Forwarded") is None
        assert headers["Host"] == "localhost"


def test_a_stream_is_not_held_back_even_if_nothing_asks_for_that(tmp_path: Path, upstream: Upstream) -> None:
    with (
        edge_before(tmp_path, upstream.server_port) as edge,
        edge.client() as client,
        client.stream("GET", "/checkout-sessions/cs_1/events") as stream,
    ):
        parts = stream.iter_text()
        assert next(parts) == "data", "before the rest is sent"
        upstream.release.set()
        assert "".join(parts) == ": 1\n\n"
