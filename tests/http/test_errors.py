"""One shape for every error, whoever raised it, and nothing in it that a caller should not see."""

import socket
import time

import httpx
import pytest

from gateway.errors import GatewayError, problem_types
from gateway.http import protocol
from gateway.http.problems import PROBLEM_TYPES
from tests.plugins.gateway import ORDERS_KEY
from tests.plugins.processes import until

REQUIRED = {"type", "title", "status", "detail", "code", "request_id"}
OPTIONAL = {"errors", "retry_after", "outcome", "upstream_code"}


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/", 404, "not-found"),
        ("GET", "/balances/", 404, "not-found"),
        ("GET", "/checkout-sessions/", 404, "not-found"),
        ("GET", "//balances", 404, "not-found"),
        ("GET", "/problems/no-such", 404, "not-found"),
        ("GET", "/docs/../errors.py", 404, "not-found"),
        ("GET", "/docs/%2e%2e%2ferrors.py", 404, "not-found"),
        ("GET", "/docs/index.html", 404, "not-found"),
        ("DELETE", "/balances", 405, "method-not-allowed"),
        ("POST", "/balances", 405, "method-not-allowed"),
        ("GET", "/checkout-sessions", 405, "method-not-allowed"),
        ("HEAD", "/checkout-sessions", 405, "method-not-allowed"),
        ("PATCH", "/balances", 405, "method-not-allowed"),
        ("OPTIONS", "/balances", 405, "method-not-allowed"),
    ],
)
def test_every_error_is_a_problem(gateway, method, path, status, code):
    answer = gateway.http.request(method, path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    if status == 405:
        assert answer.headers["allow"] in ("GET", "POST")
    if method == "HEAD":
        assert answer.text == ""
        return
    problem = answer.json()
    assert (problem["code"], problem["status"]) == (code, status)
    assert problem["type"] == f"/problems/{code}"
    assert REQUIRED <= set(problem) <= REQUIRED | OPTIONAL
    assert problem["request_id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize("error", list(problem_types()), ids=lambda error: error.code)
def test_every_code_has_a_page(gateway, error):
    answer = gateway.http.get(f"/problems/{error.code}")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    assert "script-src" not in answer.headers["content-security-policy"]
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert error.code in answer.text


def test_every_code_is_one_error_and_its_tree_is_drawn():
    errors = list(problem_types())
    assert len(PROBLEM_TYPES) == len(errors)
    import gateway.errors

    for error in errors:
        assert issubclass(error, GatewayError)
        assert f"{error.__name__} " in gateway.errors.__doc__
        assert f"{error.status} {error.code}" in gateway.errors.__doc__


@pytest.mark.parametrize("given", ["a", "A.b_c-9", "x" * 128])
def test_a_good_request_id_is_kept(gateway, given):
    assert gateway.http.get("/livez", headers={"X-Request-Id": given}).headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "x" * 129, "a b", "a/b", "a;b"])
def test_a_bad_request_id_is_replaced(gateway, given):
    made = gateway.http.get("/livez", headers={"X-Request-Id": given}).headers["x-request-id"]
    assert made != given
    assert len(made) == 32


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/balances", "/docs", "/openapi.json", "/problems/not-found"])
def test_head_is_get_without_its_body(gateway, path):
    head, get = gateway.http.head(path), gateway.http.get(path)
    assert head.status_code == get.status_code == 200
    assert head.text == ""
    assert head.headers["content-type"] == get.headers["content-type"]
    assert head.headers["content-length"] == get.headers["content-length"]


def test_a_head_leaves_its_connection_usable(gateway):
    """HEAD used to be hidden from the server too, which then cut the connection."""
    with socket.create_connection(("127.0.0.1", httpx.URL(gateway.url).port), timeout=5) as connection:
        for method in ("HEAD", "GET"):
            connection.sendall(f"{method} /livez HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 OK")


def test_a_head_is_logged_and_counted_as_one(gateway, log_lines):
    gateway.http.head("/livez", headers={"X-Request-Id": "head-1"})
    until(lambda: "head-1" in log_lines.getvalue(), "the line is written, after the answer")
    line = next(line for line in log_lines.getvalue().splitlines() if "head-1" in line)
    assert '"method":"HEAD"' in line
    assert gateway.metric("gateway_http_requests_total", route="/livez", method="HEAD", status="200") >= 1


def test_a_head_of_more_than_32_kib_is_cut_off(gateway):
    with socket.create_connection(("127.0.0.1", httpx.URL(gateway.url).port), timeout=5) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n")
        answer = b""
        try:
            for _ in range(200):
                connection.sendall(b"X-Filler: " + b"a" * 1000 + b"\r\n")
            answer = connection.recv(65536)
        except OSError:
            pass
        assert answer == b"" or answer.startswith(b"HTTP/1.1 431 ")


def dribble(gateway, start: bytes) -> bytes:
    """Send `start`, then a blank every now and then, until the gateway hangs up; return what it said."""
    said = b""
    with socket.create_connection(("127.0.0.1", httpx.URL(gateway.url).port), timeout=0.05) as connection:
        connection.sendall(start)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                connection.sendall(b" ")
                said += (chunk := connection.recv(65536))
            except TimeoutError:
                continue
            except OSError:
                return said
            if not chunk:
                return said
    raise AssertionError("the connection was held for as long as anyone cared")


@pytest.mark.parametrize(
    "start",
    [
        b"",
        b"GET /livez HTTP/1.1\r\nX-Slow: ",
        b"POST /checkout-sessions HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n",
        b"POST /checkout-sessions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + ORDERS_KEY.encode()
        + b"\r\nContent-Type: application/json\r\nContent-Length: 60000\r\n\r\n",
    ],
    ids=["nothing", "head", "body-without-a-key", "body-with-a-key"],
)  # fmt: skip
def test_who_dribbles_a_request_does_not_hold_its_connection(gateway, log_lines, monkeypatch, start):
    """A body sent a byte at a time once held its connection for ever, whether or not it had been answered."""
    monkeypatch.setattr(protocol, "REQUEST_SECONDS", 0.4)
    before = log_lines.getvalue().count('"event":"bug"')
    dribble(gateway, start)
    until(lambda: gateway.metric("gateway_http_requests_in_flight") == 0, "nobody is in flight")
    assert log_lines.getvalue().count('"event":"bug"') == before


def test_a_head_of_16_kib_passes(gateway):
    headers = {f"X-Filler-{number}": "a" * 1000 for number in range(16)}
    assert gateway.http.get("/livez", headers=headers).status_code == 200


def test_a_bug_is_a_problem_without_its_text(gateway, log_lines, monkeypatch):
    def broken(*_arguments):
        raise KeyError("a text with CANARY-bug inside")

    monkeypatch.setattr(gateway.inside.services.keyring, "client_of", broken)
    answer = gateway.http.get("/balances", headers={"X-Request-Id": "bug-1"})
    monkeypatch.undo()
    assert (answer.status_code, answer.json()["code"]) == (500, "internal-error")
    assert answer.headers["content-type"] == "application/problem+json"
    lines = [line for line in log_lines.getvalue().splitlines() if "bug-1" in line]
    assert any('"error":"KeyError"' in line and "test_errors.py" in line for line in lines)


def test_docs_load_nothing_from_elsewhere(gateway):
    page = gateway.http.get("/docs").text
    assert "http://" not in page
    assert "https://" not in page
    for asset in ("swagger-ui.css", "swagger-ui-bundle.js", "docs.js"):
        assert f"docs/{asset}" in page
        answer = gateway.http.get(f"/docs/{asset}")
        assert answer.status_code == 200
        assert len(answer.text) > 100


def test_docs_can_be_switched_off(settings_of, gateway):
    from tests.plugins.gateway import running

    with running(settings_of(docs=False), seen=gateway.seen) as quiet:
        assert [quiet.http.get(path).status_code for path in ("/docs", "/openapi.json", "/livez")] == [404, 404, 200]
