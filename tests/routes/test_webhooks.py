"""`POST /webhooks/quantapay` from outside: who may send one, what is taken, and that nothing taken is lost."""

import gzip
import json
import signal

import httpx
import pytest

from gateway.store.client import DEADLINE
from tests.plugins.gateway import MARKER, WEBHOOK_SECRET, example_config, quote, running
from tests.plugins.processes import until

PATH = "/webhooks/quantapay"
NEXT_SECRET = f"{MARKER}-webhook-secret-of-next-year"
JSON = {"Content-Type": "application/json"}
MARCH = {
    "id": "41", "title": "Order A-1", "description": "", "from": "0xaa", "to": "0xbb", "hash": "0xcc",
    "amount": "0.0125", "amount_fiat": "25.00", "cryptocurrency": "eth", "currency": "usd", "external_reference": "",
    "creation_time": "2026-03-10 09:00:00", "status": "C", "webhook": "1", "vat": "", "billing": "",
    "checkout_id": "cs-cs_0f1e2d3c4b5a69788796",
}  # fmt: skip
APRIL = {
    **MARCH, "id": "42", "biz_id": "QP-20260410-0A1B2", "title": "", "amount_fiat": "25.00000000",
    "external_reference": "A-1", "creation_time": "2026-04-10 09:00:00", "vat": "0", "checkout_id": None, "type": "2",
}  # fmt: skip


def webhook(row: object = APRIL, key: object = WEBHOOK_SECRET, **more: object) -> bytes:
    return json.dumps({"key": key, "transaction": row, **more}).encode()


def send(gateway, content=None, **headers: str) -> httpx.Response:
    """Send a webhook as QuantaPay does: without any key of ours."""
    with gateway.client(None, **{**JSON, **{name.replace("_", "-"): text for name, text in headers.items()}}) as http:
        return http.post(PATH, content=webhook() if content is None else content)


def told(answer: httpx.Response) -> tuple[int, str | None]:
    return answer.status_code, answer.json().get("code")


def count(gateway, outcome: str) -> float:
    return gateway.metric("gateway_webhooks_received_total", outcome=outcome)


def kept(valkey) -> list[dict[str, object]]:
    """Return the payments in the inbox; those that QuantaPay does not know stay there for ten minutes."""
    with valkey.client() as redis:
        return [json.loads(text) for text in redis.hvals("qpg:{events}:inbox:messages")]


def make_due(valkey) -> None:
    with valkey.client() as redis:
        for member in redis.zrange("qpg:{events}:inbox:due", 0, -1):
            redis.zadd("qpg:{events}:inbox:due", {member: 0}, xx=True)


@pytest.mark.parametrize("row", [MARCH, APRIL], ids=["march", "april"])
@pytest.mark.parametrize("content_type", ["application/json", "application/json; charset=UTF-8"])
def test_both_forms_are_taken(gateway, valkey, row, content_type):
    before = count(gateway, "queued")
    answer = send(gateway, webhook(row), Content_Type=content_type)
    assert (answer.status_code, answer.json()) == (200, {"received": True})
    assert answer.headers["cache-control"] == "no-store"
    assert count(gateway, "queued") == before + 1
    [payment] = kept(valkey)
    assert (payment["id"], payment["status"], payment["currency"]) == (row["id"], "completed", "usd")


def test_what_is_kept_has_every_digit_and_nothing_that_is_not_known(gateway, valkey, log_lines):
    digits = "25.000000000000000000000000000000000000000001"
    row = json.dumps({**APRIL, "id": 42, "amount": 0.0125, "future": {"a": [1.5]}, "key": "x"})
    row = row.replace('"25.00000000"', digits)
    content = f'{{"version": 2.0, "key": "{WEBHOOK_SECRET}", "transaction": {row}}}'
    assert send(gateway, content.encode()).status_code == 200
    [payment] = kept(valkey)
    assert (payment["id"], payment["fiat_amount"], payment["amount"]) == ("42", digits, "0.0125")
    with valkey.client() as redis:
        values = b"".join(redis.dump(key) for key in redis.scan_iter("qpg:{events}:*"))
    assert b"future" not in values
    for text in (values.decode("latin-1"), *gateway.seen, log_lines.getvalue(), gateway.ops("/metrics").text):
        assert MARKER not in text


def test_the_same_again_is_kept_once(gateway, valkey):
    for _ in range(3):
        assert send(gateway).status_code == 200
    assert len(kept(valkey)) == 1


@pytest.mark.parametrize("status", ["P", "c", "Q", "", None, 7])
def test_other_statuses_are_answered_and_ignored(gateway, valkey, status):
    before = count(gateway, "ignored")
    answer = send(gateway, webhook({**APRIL, "status": status}))
    assert (answer.status_code, answer.json()) == (200, {"received": True})
    assert count(gateway, "ignored") == before + 1
    assert kept(valkey) == []


@pytest.mark.parametrize(
    "key",
    ["wrong", "", WEBHOOK_SECRET[:-1], WEBHOOK_SECRET + " ", WEBHOOK_SECRET.lower(), "ключ", "\ud800", 1, 0, 1.5, True,
     None, [WEBHOOK_SECRET], {"a": WEBHOOK_SECRET}],
    ids=repr,
)  # fmt: skip
def test_a_wrong_key_is_refused_before_anything_else_is_looked_at(gateway, valkey, key):
    before = count(gateway, "wrong-key")
    assert told(send(gateway, webhook(key=key))) == (401, "invalid-signature")
    assert told(send(gateway, webhook("no payment", key=key))) == (401, "invalid-signature")
    assert count(gateway, "wrong-key") == before + 2
    assert kept(valkey) == []


def test_a_missing_key_is_a_wrong_one(gateway, log_lines):
    answer = send(gateway, json.dumps({"transaction": APRIL, "Key": WEBHOOK_SECRET}).encode())
    assert told(answer) == (401, "invalid-signature")
    assert "QUANTAPAY_WEBHOOK_SECRET" in answer.json()["detail"]
    assert "www-authenticate" not in answer.headers
    assert MARKER not in log_lines.getvalue()


@pytest.mark.parametrize(
    ("content", "headers", "status", "code"),
    [
        (b"", {}, 400, "malformed-request"),
        (b"key=%s" % WEBHOOK_SECRET.encode(), {}, 400, "malformed-request"),
        (webhook()[:-1], {}, 400, "malformed-request"),
        (webhook() + b"{}", {}, 400, "malformed-request"),
        (b"\xef\xbb\xbf" + webhook(), {}, 400, "malformed-request"),
        (webhook().decode().encode("utf-16"), {}, 400, "malformed-request"),
        (webhook({"id": "\xff"}).replace(b"\\u00ff", b"\xff"), {}, 400, "malformed-request"),
        (webhook({**APRIL, "amount": float("nan")}), {}, 400, "malformed-request"),
        (webhook({**APRIL, "amount": 1}).replace(b": 1,", b": 1e99999999999999999999,"), {}, 400, "malformed-request"),
        (webhook().replace(b'"key"', b'"key": "x", "key"'), {}, 400, "malformed-request"),
        (webhook().replace(b'"id"', b'"id": "1", "id"'), {}, 400, "malformed-request"),
        (webhook(a="DEEP").replace(b'"DEEP"', b"[" * 30_000 + b"]" * 30_000), {}, 400, "malformed-request"),
        (webhook(), {"Content-Type": "text/plain"}, 415, "unsupported-media-type"),
        (webhook(), {"Content-Type": "application/x-www-form-urlencoded"}, 415, "unsupported-media-type"),
        (webhook(), {"Content-Type": "application/json; charset=latin-1"}, 415, "unsupported-media-type"),
        (gzip.compress(b" " * 30_000_000, mtime=0), {"Content-Encoding": "gzip"}, 415, "unsupported-media-type"),
        (webhook(), {"Content-Encoding": "br, identity"}, 415, "unsupported-media-type"),
        (webhook(a=" " * 65_536), {}, 413, "request-too-large"),
        (webhook(a=" " * 5_000_000), {}, 413, "request-too-large"),
        (b"null", {}, 422, "validation-failed"),
        (b"[]", {}, 422, "validation-failed"),
        (json.dumps(WEBHOOK_SECRET).encode(), {}, 422, "validation-failed"),
        (json.dumps({"key": WEBHOOK_SECRET}).encode(), {}, 422, "validation-failed"),
        (webhook(None), {}, 422, "validation-failed"),
        (webhook([]), {}, 422, "validation-failed"),
        (webhook({**APRIL, "id": ""}), {}, 422, "validation-failed"),
        (webhook({"status": "C"}), {}, 422, "validation-failed"),
        (webhook({**APRIL, "id": {"id": WEBHOOK_SECRET}}), {}, 422, "validation-failed"),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_bad_input_is_refused_and_not_repeated(gateway, valkey, log_lines, content, headers, status, code):
    before = count(gateway, "malformed")
    answer = httpx.post(gateway.url + PATH, content=content, headers={**JSON, **headers})
    assert told(answer) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"
    assert count(gateway, "malformed") == before + 1
    assert kept(valkey) == []
    for text in (answer.text, str(answer.headers), log_lines.getvalue()):
        assert MARKER not in text


def test_a_body_of_any_length_that_is_not_announced_is_bounded(gateway):
    chunks = iter([b'{"key": "', *[b" " * 4096] * 17])
    assert told(send(gateway, chunks)) == (413, "request-too-large")


@pytest.mark.parametrize(
    "row",
    [
        {"id": "\ud800", "status": "C", "external_reference": "\udfff"},
        {"id": "\0", "status": "C", "external_reference": "\0"},
        {"id": "9" * 64, "status": "C", "title": "x" * 50_000},
        {"id": "7", "status": "R", "title": ["a", "b"], "amount_fiat": "lots", "creation_time": "yesterday"},
        {"id": -1.5, "status": "X", "amount_fiat": "-1", "currency": "☃"},
    ],
    ids=["surrogates", "zeros", "long", "odd", "negative"],
)
def test_what_only_looks_odd_is_kept_to_be_judged(gateway, valkey, log_lines, row):
    before = len(log_lines.getvalue())
    assert send(gateway, webhook(row)).status_code == 200
    until(lambda: kept(valkey), "it is kept")
    assert '"event":"bug"' not in log_lines.getvalue()[before:]


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
def test_other_methods_are_refused(gateway, method):
    answer = httpx.request(method, gateway.url + PATH)
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


def test_keys_of_ours_are_no_matter(gateway):
    for authorization in ("Bearer qsk_wrong", "Basic eDp5", "Bearer"):
        assert send(gateway, Authorization=authorization).status_code == 200
    assert told(gateway.http.post(PATH, content=webhook(key="wrong"), headers=JSON)) == (401, "invalid-signature")


def test_only_wrong_keys_are_limited_and_a_right_one_never(gateway):
    before, limited = count(gateway, "rate-limited"), None
    with gateway.client(None, **JSON) as http:
        for _ in range(300):
            limited = http.post(PATH, content=webhook(key="guess"))
            if limited.status_code != 401:
                break
        assert told(limited) == (429, "rate-limited")
        assert int(limited.headers["retry-after"]) >= 1
        assert count(gateway, "rate-limited") == before + 1
        for _ in range(100):
            assert http.post(PATH, content=webhook()).status_code == 200
        assert http.post(PATH, content=webhook(key="guess")).status_code in {401, 429}
    assert gateway.http.get("/balances").status_code == 200


def test_either_secret_is_good_while_they_are_rotated(settings_of, simulator, valkey):
    with running(settings_of(quantapay_webhook_secret_next=NEXT_SECRET)) as rotating:
        for key in (WEBHOOK_SECRET, NEXT_SECRET):
            assert send(rotating, webhook(key=key)).status_code == 200
        assert told(send(rotating, webhook(key="third"))) == (401, "invalid-signature")


def test_without_a_secret_no_webhook_is_taken(settings_of, simulator, valkey):
    with running(settings_of(quantapay_webhook_secret=None, quantapay_unsigned=True)) as unsigned:
        for key in (WEBHOOK_SECRET, "", None):
            answer = send(unsigned, webhook(key=key))
            assert told(answer) == (503, "webhooks-not-configured")
            assert int(answer.headers["retry-after"]) >= 1
        assert count(unsigned, "not-configured") == 3
        assert kept(valkey) == []


def test_only_listed_networks_may_send_through_trusted_proxies(settings_of, simulator, valkey):
    config = example_config() | {"webhooks": {"allow_from": ["192.0.2.0/24", "2001:db8::/32"]}}
    with running(settings_of(config, trusted_proxies="127.0.0.1")) as closed:
        for address in ("192.0.2.7", "2001:db8::7", "::ffff:192.0.2.7", "203.0.113.1, 192.0.2.7"):
            assert send(closed, X_Forwarded_For=address).status_code == 200
        for address in ("203.0.113.1", "192.0.2.7, 203.0.113.1", "2001:db9::1", "nonsense"):
            answer = send(closed, X_Forwarded_For=address)
            assert told(answer) == (403, "origin-not-allowed")
            assert "webhooks.allow_from" in answer.json()["detail"]
        assert told(send(closed, b"nonsense")) == (403, "origin-not-allowed")
        assert count(closed, "not-allowed") == 5


def test_while_redis_is_away_webhooks_are_refused_and_payments_looked_for_after(
    settings_of, simulator, valkey_factory, log_lines
):
    server = valkey_factory()
    with running(settings_of(redis_url=server.url), redis_deadline=DEADLINE) as outside:
        server.pause()
        refused = send(outside)
        server.resume()
        assert told(refused) == (503, "storage-unavailable")
        assert int(refused.headers["retry-after"]) >= 1
        assert count(outside, "unavailable") == 1
        until(lambda: send(outside).status_code == 200, "webhooks are taken again")
        assert len(kept(server)) == 1
        until(lambda: "a webhook was refused" in log_lines.getvalue(), "payments are looked for")
        server.kill()
        assert told(send(outside)) == (503, "storage-unavailable")
        server.restart()
        until(lambda: send(outside).status_code == 200, "webhooks are taken by the new one")


def paid(gateway, order_id: str) -> tuple[dict[str, object], dict[str, object]]:
    """Have a customer pay an order; return its session and QuantaPay's row of the payment."""
    session = gateway.browser.post("/checkout-sessions", json=quote(order_id=order_id)).json()
    httpx.post(session["payment_url"], data={"action": "pay"}).raise_for_status()
    [row] = gateway.http.get("/transactions").json()["transactions"]
    amounts = {"amount": row["amount"], "amount_fiat": row["fiat_amount"], "currency": row["currency"]}
    known = {"id": row["id"], "external_reference": row["order_id"], "cryptocurrency": row["cryptocurrency"]}
    return session, {**known, **amounts, "status": "C"}


def status(gateway, session) -> str:
    with gateway.client(session["client_token"]) as browser:
        return browser.get(f"/checkout-sessions/{session['id']}").raise_for_status().json()["status"]


def test_a_genuine_webhook_turns_its_session_paid(gateway, simulator, valkey):
    session, row = paid(gateway, "ORD-1")
    assert send(gateway, webhook(row)).status_code == 200
    until(lambda: status(gateway, session) == "paid", "the session is paid")
    until(lambda: kept(valkey) == [], "the inbox is empty")
    functions = [dict(call["fields"])["function"] for call in simulator.calls()]
    assert functions.count("get-transaction") == 1


def test_a_webhook_with_another_amount_moves_nothing_yet(gateway, valkey):
    session, row = paid(gateway, "ORD-1")
    assert send(gateway, webhook({**row, "amount_fiat": "0.01"})).status_code == 200
    until(lambda: '"denied 1 times"' in str(states(valkey)), "quantapay was asked")
    assert len(kept(valkey)) == 1
    assert status(gateway, session) in {"open", "paid"}  # paid: by what a list of the newest payments says


def states(valkey) -> list[bytes]:
    with valkey.client() as redis:
        return redis.hvals("qpg:{events}:inbox:state")


def test_what_was_answered_outlives_the_process_that_answered(gateway, simulator, valkey, start_gateway):
    session, row = paid(gateway, "ORD-1")
    simulator.scenario("hang", function="get-transaction", seconds=60)
    doomed = start_gateway()
    assert httpx.post(doomed.url + PATH, content=webhook(row), headers=JSON).status_code == 200
    doomed.send(signal.SIGKILL)
    httpx.delete(f"{simulator.url}/simulator/scenario").raise_for_status()

    def is_paid() -> bool:
        make_due(valkey)
        return status(gateway, session) == "paid"

    until(is_paid, "another process judged it", every=0.1)
