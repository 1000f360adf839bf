"""`Idempotency-Key` from outside: one key, one page, whatever is sent again and whatever breaks."""

import json
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from gateway.config.keys import sha256_hex
from gateway.store.client import DEADLINE
from tests.plugins.gateway import MARKER, ORDERS_KEY, example_config, running
from tests.plugins.processes import until

ORDER = {"price": "49.99", "currency": "usd"}
OTHER_KEY = "qsk_" + f"{MARKER}other".ljust(43, "0")


def create(gateway, key="k-1", *, http=None, **order):
    headers = {} if key is None else {"Idempotency-Key": key}
    return (http or gateway.http).post("/checkout-sessions", json={**ORDER, **order}, headers=headers)


def creates(simulator) -> int:
    return sum(1 for call in simulator.calls() if dict(call["fields"])["function"] == "create-checkout-session")


def test_the_same_request_again_gets_the_same_answer_byte_for_byte(gateway, simulator):
    first = create(gateway)
    again = create(gateway)
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.content == first.content
    assert again.headers["location"] == first.headers["location"]
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert creates(simulator) == 1


def test_another_gateway_replays_it_too(gateway, simulator, settings_of):
    first = create(gateway)
    with running(settings_of()) as other:
        assert create(other).content == first.content
    assert creates(simulator) == 1


def test_spelling_that_means_the_same_is_the_same_request(gateway, simulator):
    first = create(gateway, metadata={"a": "1", "b": "2"})
    body = b'{"metadata": {"b":"2","a":"1"},  "currency":"USD","price":"49.99"}'
    headers = {"Idempotency-Key": "k-1", "Content-Type": "application/json"}
    assert gateway.http.post("/checkout-sessions", content=body, headers=headers).content == first.content


@pytest.mark.parametrize(
    "change", [{"price": "49.98"}, {"currency": "eur"}, {"order_id": "ORD-2"}, {"metadata": {"a": "1"}}]
)
def test_the_key_of_another_request_is_refused(gateway, simulator, change):
    create(gateway)
    answer = create(gateway, **change)
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency-key-reused")
    assert creates(simulator) == 1


def test_the_quoted_form_is_the_same_key(gateway, simulator):
    first = create(gateway, "a b\\c")
    assert create(gateway, '"a b\\\\c"').content == first.content
    assert creates(simulator) == 1
    create(gateway, '"a b')
    assert creates(simulator) == 2, "a quote that is not closed is part of the key"


@pytest.mark.parametrize("key", ["", '""', "x" * 256, "schl\u00fcssel", "tab\there", '"' + "x" * 256 + '"'])
def test_what_cannot_be_a_key_is_refused_before_anything_is_sent(gateway, simulator, key):
    headers = {"Idempotency-Key": key.encode("latin-1")}
    answer = gateway.http.post("/checkout-sessions", json=ORDER, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (422, "validation-failed")
    assert answer.json()["errors"][0]["parameter"] == "Idempotency-Key"
    assert creates(simulator) == 0


def test_two_keys_in_one_request_are_refused(gateway):
    headers = [("Idempotency-Key", "a"), ("Idempotency-Key", "a")]
    assert gateway.http.post("/checkout-sessions", json=ORDER, headers=headers).status_code == 422


def test_the_largest_answer_can_be_stored(gateway):
    metadata = {f"{number:02}" + "\U0001f600" * 38: '\U0001f600\n"\\\t' * 100 for number in range(20)}
    first = create(gateway, metadata=metadata, order_id="\U0001f600" * 255)
    assert first.status_code == 201
    assert create(gateway, metadata=metadata, order_id="\U0001f600" * 255).content == first.content


def test_the_longest_key_passes(gateway):
    assert create(gateway, "~" * 255).status_code == 201


def test_while_the_first_is_under_way_the_second_waits_its_turn(gateway, simulator):
    simulator.scenario("slow", seconds=0.5)
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: create(gateway), range(20)))
    made = [answer for answer in answers if answer.status_code == 201]
    waiting = [answer for answer in answers if answer.status_code == 409]
    # On a machine that is busy a burst can miss Redis's 100 ms; who does is told that nothing was sent.
    turned_away = [answer for answer in answers if answer.status_code == 503]
    assert len({answer.content for answer in made}) == 1
    assert len(made) + len(waiting) + len(turned_away) == 20
    assert {answer.json()["outcome"] for answer in turned_away} <= {"not_sent"}
    for answer in waiting:
        assert answer.json()["code"] == "idempotency-in-progress"
        assert int(answer.headers["retry-after"]) >= 1
    assert creates(simulator) == 1
    assert create(gateway).content == made[0].content


@pytest.mark.parametrize(
    ("scenario", "status", "outcome"),
    [
        ("html-error", 502, "unknown"),
        ("close", 502, "unknown"),
        ("throttled-429", 503, "unknown"),
        ("invalid-api-key", 502, None),
    ],
)
def test_a_failure_is_not_kept_and_the_key_is_free_at_once(gateway, simulator, scenario, status, outcome):
    simulator.scenario(scenario, times=1)
    failed = create(gateway)
    assert (failed.status_code, failed.json().get("outcome")) == (status, outcome)
    assert create(gateway).status_code == 201
    assert create(gateway).headers["idempotent-replayed"] == "true"


def test_a_key_belongs_to_its_client(settings_of, simulator, valkey):
    config = example_config()
    config["clients"].append(
        {"id": "other", "key_sha256": sha256_hex(OTHER_KEY), "scopes": ["checkout-sessions:write"]}
    )
    with running(settings_of(config)) as outside, outside.client(OTHER_KEY) as other:
        first = create(outside)
        second = create(outside, http=other, price="1.00")
        assert (first.status_code, second.status_code) == (201, 201)
        assert first.json()["id"] != second.json()["id"]


def test_an_order_id_belongs_to_the_client_that_used_it_first(settings_of, simulator, valkey):
    config = example_config()
    config["clients"].append(
        {"id": "other", "key_sha256": sha256_hex(OTHER_KEY), "scopes": ["checkout-sessions:write"]}
    )
    with running(settings_of(config)) as outside, outside.client(OTHER_KEY) as other:
        assert create(outside, None, order_id="ORD-1").status_code == 201
        refused = create(outside, None, http=other, order_id="ORD-1")
        assert (refused.status_code, refused.json()["code"]) == (409, "order-id-taken")
        assert create(outside, None, order_id="ORD-1").status_code == 201
        assert create(outside, None, http=other, order_id="ord-1").status_code == 201
    assert creates(simulator) == 3


def test_a_caller_that_hangs_up_leaves_a_session_that_sending_again_gets(gateway, simulator):
    simulator.scenario("slow", seconds=0.4)
    body = json.dumps(ORDER).encode()
    host, port = gateway.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as caller:
        caller.sendall(
            b"POST /checkout-sessions HTTP/1.1\r\nHost: g\r\nContent-Type: application/json\r\nIdempotency-Key: gone\r\n"
            b"Authorization: Bearer %s\r\nContent-Length: %d\r\n\r\n%s" % (ORDERS_KEY.encode(), len(body), body)
        )
        until(lambda: creates(simulator) == 1, "the create is at QuantaPay")
    until(lambda: create(gateway, "gone").headers.get("idempotent-replayed") == "true", "the session is replayed")
    assert creates(simulator) == 1


@pytest.mark.parametrize("key", ["k-1", None])
def test_without_redis_nothing_is_created(settings_of, simulator, valkey_factory, key):
    server = valkey_factory()
    with running(settings_of(redis_url=server.url), redis_deadline=DEADLINE) as outside:
        server.pause()
        answer = create(outside, key)
        assert (answer.status_code, answer.json()["code"]) == (503, "storage-unavailable")
        assert answer.json()["outcome"] == "not_sent"
        assert int(answer.headers["retry-after"]) >= 1
        assert creates(simulator) == 0
        server.resume()


def test_results_are_counted(gateway):
    def count(result):
        return gateway.metric("gateway_idempotency_total", result=result)

    before = {result: count(result) for result in ("claimed", "completed", "replayed", "key-reused")}
    create(gateway)
    create(gateway)
    create(gateway, price="1.00")
    assert {result: count(result) - value for result, value in before.items()} == {
        "claimed": 1,
        "completed": 1,
        "replayed": 1,
        "key-reused": 1,
    }
