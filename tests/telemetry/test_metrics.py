"""Metrics: bounded labels, known series from the start, and the operators' listener that shows them."""

from gateway import __version__
from gateway.telemetry.metrics import MOST_CLIENTS, Metrics
from gateway.telemetry.status import Status, document, from_json, to_json
from tests.plugins.processes import until


def settled(in_flight):
    """Wait for what comes after an answer: a request is counted when it is over, not when its answer is read."""
    until(lambda: in_flight() == 0, "no request is in flight")


ONE = Status(
    phase="ready",
    store_up=True,
    processes_seen=2,
    clients=3,
    config_in_force_is_newest=True,
    clock_skew_seconds=-0.4,
    last_upstream_outcomes={"get-balances": "ok"},
    budget_limit=90,
    budget_remaining=40,
    budget_shared=True,
    breakers={"connect": "closed", "get-balances": "half-open"},
    backlog={"orders": {"waiting": 3, "age_seconds": 2.5, "dead_letters": 1}},
)
OTHER = Status(
    phase="draining",
    store_up=False,
    processes_seen=4,
    clients=3,
    config_in_force_is_newest=False,
    clock_skew_seconds=2.0,
    last_upstream_outcomes={"get-balances": "upstream-timeout", "get-transactions": "ok"},
    budget_limit=45,
    budget_remaining=41,
    budget_shared=False,
    breakers={"connect": "closed", "get-balances": "open", "get-transactions": "closed"},
    backlog={"orders": {"waiting": 4, "age_seconds": 1.5, "dead_letters": 1}, "crm": {"waiting": 0}},
)


def test_known_series_start_at_zero():
    metrics = Metrics()
    metrics.name_functions(["get-balances"])
    value = metrics.registry.get_sample_value
    assert value("quantapay_requests_total", {"function": "get-balances", "outcome": "ok"}) == 0
    assert value("quantapay_requests_total", {"function": "get-balances", "outcome": "upstream-timeout"}) == 0
    assert value("gateway_config_reloads_total", {"result": "failure"}) == 0
    labels = {"limit": "client", "decision": "refused", "store": "local"}
    assert value("gateway_rate_limit_decisions_total", labels) == 0
    assert value("gateway_config_last_reload_successful") == 1
    assert value("gateway_build_info", {"version": __version__}) == 1


def test_clients_beyond_the_bound_share_a_label():
    metrics = Metrics()
    names = [metrics.client_label(f"client-{number}") for number in range(MOST_CLIENTS + 2)]
    assert names[-2:] == ["other", "other"]
    assert metrics.client_label("client-0") == "client-0"


def test_the_operators_listener_shows_metrics_by_template_and_never_by_path(gateway):
    number = "3133731337313373133731337"  # longer than any other on the page, times included
    gateway.http.get(f"/transactions/{number}")
    gateway.http.get(f"/no-such-{number}")
    settled(lambda: gateway.metric("gateway_http_requests_in_flight"))
    answer = gateway.ops("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    assert 'route="/transactions/{id}"' in answer.text
    assert 'route="unmatched"' in answer.text
    assert number not in answer.text
    assert "gateway_redis_up 1.0" in answer.text
    assert "pid=" not in answer.text


def test_requests_are_counted_by_client_and_class(gateway):
    labels = {"client": "orders", "code_class": "2xx"}
    name = "gateway_client_requests_total"
    settled(lambda: gateway.metric("gateway_http_requests_in_flight"))
    before = gateway.metric(name, **labels)
    gateway.http.get("/balances")
    until(lambda: gateway.metric(name, **labels) == before + 1, "the request is counted, once")


def test_the_operators_listener_answers_in_the_same_shape(gateway):
    assert gateway.ops("/livez").json() == {"status": "ok"}
    answer = gateway.ops("/nope")
    assert (answer.status_code, answer.json()["code"]) == (404, "not-found")
    assert answer.headers["content-type"] == "application/problem+json"
    status = gateway.ops("/status").json()
    assert status["ready"] is True
    assert status["store"]["up"] is True
    assert status["version"] == __version__


def test_workers_merge_to_the_worst_of_each():
    merged = document([ONE, OTHER], expected=3, embedded_store=True)
    assert merged["ready"] is False
    assert merged["workers"] == {"expected": 3, "answering": 2, "phases": ["ready", "draining"]}
    assert merged["store"] == {"up": False, "embedded": True, "processes_seen": 4}
    assert merged["upstream"]["last_outcomes"] == {"get-balances": "upstream-timeout", "get-transactions": "ok"}
    assert merged["breakers"] == {"connect": "closed", "get-balances": "open", "get-transactions": "closed"}
    assert merged["budget"] == {"limit": 45, "remaining": 40, "shared": False}
    assert merged["backlog"] == {
        "crm": {"waiting": 0},
        "orders": {"waiting": 4, "age_seconds": 2.5, "dead_letters": 1},
    }
    assert merged["clock_skew_seconds"] == 2.0
    assert merged["configuration"] == {"clients": 3, "newest_in_force": False}


def test_no_worker_at_all_is_not_ready():
    merged = document([], expected=2, embedded_store=False)
    assert merged["ready"] is False
    assert merged["store"]["up"] is False
    assert merged["clock_skew_seconds"] is None


def test_a_workers_status_survives_its_way_to_the_supervisor():
    assert from_json(to_json(OTHER)) == OTHER
