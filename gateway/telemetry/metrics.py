"""Every metric of the gateway, declared once with its help text (interface §6).

No label ever holds a key, an address, an id of a payment or free text, so the number of series stays bounded.
Known label sets are made at start, so that a rate over them is 0 and not absent.
"""

from collections.abc import Iterable
from itertools import product
from typing import get_args

from prometheus_client import CollectorRegistry

from gateway import __version__
from gateway.config import EventName
from gateway.errors import UpstreamError, problem_types
from gateway.telemetry.series import Counter, Gauge, Histogram, Series

HTTP_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
"""From a refusal (well under a millisecond) to the default upstream deadline of 10 s."""
UPSTREAM_SECONDS = (0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 7.5, 10)
REDIS_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1)
"""Up to 100 ms, the longest that any request waits for Redis."""

CACHE_RESULTS = ("hit", "miss", "stale", "collapsed")
IDEMPOTENCY_RESULTS = ("claimed", "replayed", "in-progress", "key-reused", "completed", "released", "lost")
SESSION_EVENTS = ("created", "found", "underpaid", "needs_review", "paid", "refunded", "unmatched", "ambiguous")
WEBHOOK_OUTCOMES = (
    "queued",
    "ignored",
    "malformed",
    "wrong-key",
    "rate-limited",
    "not-allowed",
    "not-configured",
    "unavailable",
)
"""What became of a webhook. Ignored: it tells of a status that says nothing of money."""
DELIVERY_OUTCOMES = ("delivered", "refused", "timeout", "unreachable", "forbidden", "dead")
"""What became of an attempt to deliver an event, and `dead`: it was the last, and the event was given up. Refused: any
answer but 2xx. Forbidden: the subscriber's name led to an address that nothing may be sent to."""
BREAKER_STATES = ("closed", "open", "half-open")

MOST_CLIENTS = 500
"""Clients beyond this many share the label `other`."""
MOST_COINS = 50
"""Balances of coins beyond this many are not shown."""


class Metrics:
    """The metrics of one process, in a registry of their own."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self._named_clients: set[str] = set()

        self.http_requests = Series(
            Counter(
                "gateway_http_requests",
                "Requests answered, by route template.",
                ["route", "method", "status"],
                registry=self.registry,
            )
        )
        self.http_request_duration = Series(
            Histogram(
                "gateway_http_request_duration_seconds",
                "Seconds from a request's first byte to its last, by route template.",
                ["route", "method", "status"],
                buckets=HTTP_SECONDS,
                registry=self.registry,
            )
        )
        self.http_requests_in_flight = Gauge(
            "gateway_http_requests_in_flight",
            "Requests being answered now.",
            multiprocess_mode="livesum",
            registry=self.registry,
        )
        self.problems = Series(
            Counter("gateway_problems", "Answers that are problems, by code.", ["code"], registry=self.registry)
        )
        self.client_requests = Series(
            Counter(
                "gateway_client_requests",
                f"Requests by client; clients beyond {MOST_CLIENTS} count as `other`.",
                ["client", "code_class"],
                registry=self.registry,
            )
        )
        self.rate_limit_decisions = Series(
            Counter(
                "gateway_rate_limit_decisions",
                "Rate limit decisions: which limit, allowed or refused, and by which store.",
                ["limit", "decision", "store"],
                registry=self.registry,
            )
        )
        self.cache_lookups = Series(
            Counter(
                "gateway_cache_lookups",
                "Reads by how they were served: from the cache, by a call, by a stale copy, or by another's call.",
                ["function", "result"],
                registry=self.registry,
            )
        )
        self.idempotency = Counter(
            "gateway_idempotency",
            "Requests with an Idempotency-Key, by what became of them.",
            ["result"],
            registry=self.registry,
        )
        self.upstream_requests = Series(
            Counter(
                "quantapay_requests",
                "Calls to QuantaPay by function; outcome is `ok` or the problem code, also of calls not sent.",
                ["function", "outcome"],
                registry=self.registry,
            )
        )
        self.upstream_request_duration = Series(
            Histogram(
                "quantapay_request_duration_seconds",
                "Seconds that calls to QuantaPay took, by function.",
                ["function", "outcome"],
                buckets=UPSTREAM_SECONDS,
                registry=self.registry,
            )
        )
        self.upstream_clock_skew = Gauge(
            "quantapay_clock_skew_seconds",
            "QuantaPay's clock less ours at its last answer; over 300 either way it refuses signed calls.",
            multiprocess_mode="mostrecent",
            registry=self.registry,
        )
        self.budget_limit = Gauge(
            "quantapay_budget_limit",
            "Calls to QuantaPay that all replicas together may make in a window, as last seen; halved when throttled.",
            multiprocess_mode="mostrecent",
            registry=self.registry,
        )
        self.budget_remaining = Gauge(
            "quantapay_budget_remaining",
            "Calls to QuantaPay left in the window for the most urgent, as last seen.",
            multiprocess_mode="mostrecent",
            registry=self.registry,
        )
        self.breaker_state = Gauge(
            "quantapay_breaker_state",
            "Processes in which the breaker of a function is in a state: closed, open or half-open.",
            ["function", "state"],
            multiprocess_mode="livesum",
            registry=self.registry,
        )
        self.balance = Gauge(
            "quantapay_balance",
            f"Coins that the merchant holds, as last fetched for a caller: a float, of at most {MOST_COINS} coins.",
            ["cryptocurrency"],
            multiprocess_mode="mostrecent",
            registry=self.registry,
        )
        self.balance_fiat = Gauge(
            "quantapay_balance_fiat",
            "Their value in the account's currency, by QuantaPay; `unknown` where it does not say the currency.",
            ["cryptocurrency", "currency"],
            multiprocess_mode="mostrecent",
            registry=self.registry,
        )
        self.credit_balance = Gauge(
            "quantapay_credit_balance",
            "Credits left for QuantaPay's fee, as last fetched for a caller: a float.",
            ["currency"],
            multiprocess_mode="mostrecent",
            registry=self.registry,
        )
        self.balance_timestamp = Gauge(
            "quantapay_balance_timestamp_seconds",
            "Unix time of the last fetch; of several replicas the one with the latest shows what is so now.",
            ["function"],
            multiprocess_mode="mostrecent",
            registry=self.registry,
        )
        self.checkout_sessions = Counter(
            "gateway_checkout_sessions",
            "Checkout sessions by what happened: made, found again by an equal order, moved to a status, or a payment "
            "that no session, or more than one, can claim.",
            ["event"],
            registry=self.registry,
        )
        self.event_streams = Gauge(
            "gateway_event_streams",
            "Open event streams of checkout sessions.",
            multiprocess_mode="livesum",
            registry=self.registry,
        )
        self.webhooks_received = Counter(
            "gateway_webhooks_received",
            "Webhooks of QuantaPay by what became of them; only `queued` ones are acted on.",
            ["outcome"],
            registry=self.registry,
        )
        self.payment_events = Counter(
            "gateway_payment_events",
            "Payment events by type, each counted once however it was learned of.",
            ["type"],
            registry=self.registry,
        )
        self.webhook_deliveries = Counter(
            "gateway_webhook_deliveries",
            "Attempts to deliver an event, by subscriber; `dead` counts the events that were given up.",
            ["subscriber", "outcome"],
            registry=self.registry,
        )
        self.webhook_backlog = Gauge(
            "gateway_webhook_backlog",
            "Events that a subscriber has not received yet, as last seen.",
            ["subscriber"],
            multiprocess_mode="mostrecent",
            registry=self.registry,
        )
        self.webhook_backlog_age = Gauge(
            "gateway_webhook_backlog_age_seconds",
            "Seconds that the oldest event of a subscriber's backlog has waited, as last seen; 0 without one.",
            ["subscriber"],
            multiprocess_mode="mostrecent",
            registry=self.registry,
        )
        self.webhook_dead_letters = Gauge(
            "gateway_webhook_dead_letters",
            "Events that were given up and are kept for `webhooks replay`, as last seen.",
            ["subscriber"],
            multiprocess_mode="mostrecent",
            registry=self.registry,
        )
        self.redis_up = Gauge(
            "gateway_redis_up",
            "1 while Redis answers in time, 0 while this process goes on without it.",
            multiprocess_mode="livemin",
            registry=self.registry,
        )
        self.redis_command_duration = Histogram(
            "gateway_redis_command_duration_seconds",
            "Seconds that Redis commands took, failed ones included.",
            buckets=REDIS_SECONDS,
            registry=self.registry,
        )
        self.config_reloads = Counter(
            "gateway_config_reloads",
            "Attempts to load a changed gateway.yaml; a failed one keeps the old configuration.",
            ["result"],
            registry=self.registry,
        )
        self.config_last_reload_successful = Gauge(
            "gateway_config_last_reload_successful",
            "1 if the newest gateway.yaml is the one in force.",
            multiprocess_mode="livemin",
            registry=self.registry,
        )
        self.build_info = Gauge(
            "gateway_build_info",
            "Always 1; the version is in the label.",
            ["version"],
            multiprocess_mode="max",
            registry=self.registry,
        )
        self._start_at_zero()

    def _start_at_zero(self) -> None:
        self.build_info.labels(version=__version__).set(1)
        self.config_last_reload_successful.set(1)
        for result in ("success", "failure"):
            self.config_reloads.labels(result=result)
        for error in problem_types():
            self.problems[error.code,]
        for limit, decision, store in product(("client", "ip"), ("allowed", "refused"), ("redis", "local")):
            self.rate_limit_decisions[limit, decision, store]
        for event in SESSION_EVENTS:
            self.checkout_sessions.labels(event=event)
        for outcome in WEBHOOK_OUTCOMES:
            self.webhooks_received.labels(outcome=outcome)
        for event_type in get_args(EventName):
            self.payment_events.labels(type=event_type)
        for result in IDEMPOTENCY_RESULTS:
            self.idempotency.labels(result=result)

    def name_functions(self, functions: Iterable[str]) -> None:
        """Make the series of every upstream function that this gateway can call."""
        outcomes = ["ok", *(error.code for error in problem_types() if issubclass(error, UpstreamError))]
        for function in functions:
            for outcome in outcomes:
                self.upstream_requests[function, outcome]
            for state in BREAKER_STATES:
                self.breaker_state.labels(function=function, state=state)

    def name_reads(self, functions: Iterable[str]) -> None:
        """Make the series of every function whose answers go through the cache."""
        for function in functions:
            for result in CACHE_RESULTS:
                self.cache_lookups[function, result]

    def name_subscribers(self, subscribers: Iterable[str]) -> None:
        """Make the series of every subscriber."""
        for subscriber in subscribers:
            for outcome in DELIVERY_OUTCOMES:
                self.webhook_deliveries.labels(subscriber=subscriber, outcome=outcome)
            for gauge in (self.webhook_backlog, self.webhook_backlog_age, self.webhook_dead_letters):
                gauge.labels(subscriber=subscriber)

    def client_label(self, client: str) -> str:
        """Return `client`, or `other` once `MOST_CLIENTS` names are taken (names survive a reload)."""
        if client in self._named_clients:
            return client
        if len(self._named_clients) >= MOST_CLIENTS:
            return "other"
        self._named_clients.add(client)
        return client
