"""Open sessions find their payments among QuantaPay's newest transactions, at one call for all of them."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from urllib.parse import parse_qsl

import httpx
import pytest
from pydantic import SecretStr
from redis.asyncio import Redis
from structlog.testing import capture_logs

from gateway.clock import SystemClock
from gateway.errors import StorageUnavailable, UpstreamBudgetExhausted, UpstreamError, UpstreamTimeout
from gateway.payments import reconcile
from gateway.payments.agenda import KEY, LEASE_KEY, Agenda, Turn
from gateway.payments.changes import Changes
from gateway.payments.events import Events, PaymentEvent, Told
from gateway.payments.reconcile import FURTHER_PAGES, PAGE, REMEMBERED_FOR, SETTLED_AFTER, TICK, Reconciliation
from gateway.payments.session import CLOCK_TOLERANCE, Session, SessionStatus
from gateway.payments.sessions import Sessions
from gateway.payments.settlement import Settlement
from gateway.quantapay.budget import Unmetered
from gateway.quantapay.client import QuantaPay
from gateway.quantapay.credentials import RotatingSecret
from gateway.quantapay.functions import Function
from gateway.quantapay.models import Transaction
from gateway.quantapay.payment_urls import PaymentUrls
from gateway.quantapay.urgency import Urgency
from gateway.store.redis import Store
from gateway.telemetry.metrics import Metrics
from tests.plugins.upstream import Mocked
from tests.plugins.valkey import ValkeyServer

NOON = datetime(2026, 4, 10, 12, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def session(
    session_id: str = "cs_1", *, order_id: str = "ORD-1", made: datetime = NOON, price: str = "49.99"
) -> Session:
    return Session(
        id=session_id,
        client_id="shop",
        price=price,
        currency="usd",
        order_id=order_id,
        payment_url="https://pay.example/1",
        created_at=made,
    )


def payment(
    transaction_id: str = "1",
    *,
    order_id: str | None = "ORD-1",
    status: str = "C",
    made: datetime | None = NOON + MINUTE,
    amount: str = "49.99",
) -> Transaction:
    names = {"C": "completed", "P": "pending", "X": "underpaid", "R": "refunded"}
    return Transaction(
        id=transaction_id,
        quantapay_reference=None,
        title=None,
        description=None,
        from_address=None,
        to_address=None,
        hash="0xcc",
        amount=Decimal("0.0125"),
        cryptocurrency="eth",
        fiat_amount=Decimal(amount),
        currency="usd",
        order_id=order_id,
        status=names[status],
        raw_status=status,
        created_at=made,
    )


def page_of(count: int, *, oldest: datetime | None) -> tuple[Transaction, ...]:
    """Payments of no session, the last of which was made at `oldest`."""
    others = [payment(str(1000 - n), order_id=None, made=NOON + MINUTE) for n in range(count - 1)]
    return (*others, payment("1", order_id=None, made=oldest))


class HeldClock(SystemClock):
    """A clock that stands still, and whose sleepers wake when the test says so."""

    def __init__(self) -> None:
        self.now = (NOON + 2 * MINUTE).timestamp()
        self.asked: list[float] = []
        self.wake = asyncio.Event()

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.asked.append(seconds)
        await self.wake.wait()
        self.wake.clear()


class Upstream:
    """QuantaPay's list of transactions, page by page."""

    def __init__(self) -> None:
        self.pages: list[tuple[Transaction, ...] | Exception] = [()]
        self.settled: tuple[Transaction, ...] = ()
        """Older ones, which only lists of their status reach."""
        self.fails_on: str | None = None
        self.calls: list[tuple[str, Urgency, dict[str, str]]] = []

    async def call(self, function: Function[object], parameters: dict[str, str]) -> tuple[Transaction, ...]:
        self.calls.append((function.name, function.urgency, parameters))
        number = int(parameters["page"])
        page = self.pages[min(number, len(self.pages) - 1)]
        if isinstance(page, Exception):
            raise page
        wanted = parameters.get("status")
        if wanted is not None and wanted == self.fails_on:
            raise UpstreamTimeout
        if wanted is None:
            return page
        return tuple(row for row in (*page, *self.settled) if row.raw_status == wanted)


class Kept:
    """Sessions as the real ones keep them."""

    def __init__(self) -> None:
        self.sessions: dict[str, Session] = {}
        self.asked: list[str] = []
        self.fails: dict[str, Exception] = {}
        """By reference."""

    def put(self, *sessions: Session) -> None:
        self.sessions.update({session.id: session for session in sessions})

    async def with_reference(self, order_id: str) -> list[Session]:
        self.asked.append(order_id)
        if order_id in self.fails:
            raise self.fails[order_id]
        return [session for session in self.sessions.values() if session.order_id == order_id]

    async def move(self, session_id: str, change: Callable[[Session], Session]) -> Session | None:
        if session_id not in self.sessions:
            return None
        self.sessions[session_id] = change(self.sessions[session_id])
        return self.sessions[session_id]


class Turns:
    """An agenda on which something is always due, unless it says otherwise."""

    def __init__(self) -> None:
        self.oldest: datetime | None = NOON
        self.did: list[str] = []
        self.removed: list[str] = []
        self.fails: dict[str, Exception] = {}

    async def take_due(self) -> Turn | None:
        self._do("take")
        return Turn("token", 0, self.oldest) if self.oldest else None

    async def advance(self, _turn: Turn) -> None:
        self._do("advance")

    async def release(self, _turn: Turn) -> None:
        self._do("release")

    async def hasten(self) -> None:
        self._do("hasten")

    async def remove(self, session: Session) -> None:
        self.removed.append(session.id)
        self._do("remove")

    def _do(self, what: str) -> None:
        self.did.append(what)
        if what in self.fails:
            raise self.fails[what]


class Bench:
    """Reconciliation over stand-ins."""

    def __init__(self, events: Events) -> None:
        self.upstream, self.kept, self.agenda, self.clock = Upstream(), Kept(), Turns(), HeldClock()
        self.metrics = Metrics()
        self.tolerance = Decimal(0)
        self.reconciliation = Reconciliation(
            quantapay=self.upstream,  # type: ignore[arg-type]
            agenda=self.agenda,  # type: ignore[arg-type]
            settlement=Settlement(
                sessions=self.kept,  # type: ignore[arg-type]
                agenda=self.agenda,  # type: ignore[arg-type]
                events=events,
                tolerance=lambda: self.tolerance,
                clock=self.clock,
                metrics=self.metrics,
            ),
            clock=self.clock,
        )

    async def sweep(self, *rows: Transaction, later: timedelta = timedelta()) -> None:
        """Sweep, `later` than before, while QuantaPay lists these rows on one page."""
        self.clock.now += later.total_seconds()
        self.upstream.pages = [rows]
        self.kept.asked.clear()
        await self.reconciliation.sweep()

    def status(self, session_id: str = "cs_1") -> SessionStatus:
        return self.kept.sessions[session_id].status

    def ambiguous(self) -> float | None:
        return self.metrics.registry.get_sample_value("gateway_checkout_sessions_total", {"event": "ambiguous"})


@pytest.fixture
def bench(heard) -> Bench:
    return Bench(heard)


async def test_a_payment_moves_its_session_which_then_leaves_the_agenda(bench: Bench) -> None:
    bench.kept.put(session(), session("cs_2", order_id="ORD-2"))
    await bench.sweep(payment())
    assert bench.status() is SessionStatus.PAID
    assert bench.status("cs_2") is SessionStatus.OPEN
    assert bench.agenda.removed == ["cs_1"]
    assert bench.agenda.did[-2:] == ["advance", "release"]


async def test_all_sessions_cost_one_call_from_the_background_share_that_searches_for_nothing(bench: Bench) -> None:
    bench.kept.put(*(session(f"cs_{n}", order_id=f"ORD-{n}") for n in range(50)))
    await bench.sweep(*(payment(str(n), order_id=f"ORD-{n}") for n in range(50)))
    assert {kept.status for kept in bench.kept.sessions.values()} == {SessionStatus.PAID}
    assert bench.upstream.calls == [("get-transactions", Urgency.BACKGROUND, {"page": "0"})]


async def test_quantapay_is_not_called_while_nothing_is_due(bench: Bench) -> None:
    bench.agenda.oldest = None
    await bench.sweep(payment())
    assert bench.upstream.calls == []
    assert bench.agenda.did == ["take"]


@pytest.mark.parametrize(
    ("status", "amount", "expected"),
    [
        ("P", "49.99", SessionStatus.OPEN),
        ("X", "10.00", SessionStatus.UNDERPAID),
        ("C", "49.98", SessionStatus.NEEDS_REVIEW),
    ],
)
async def test_a_session_that_is_not_final_stays_on_the_agenda(
    bench: Bench, status: str, amount: str, expected: SessionStatus
) -> None:
    bench.kept.put(session())
    await bench.sweep(payment(status=status, amount=amount))
    assert bench.status() is expected
    assert bench.kept.sessions["cs_1"].transaction == payment(status=status, amount=amount)
    assert bench.agenda.removed == []


async def test_the_tolerance_is_the_one_in_force(bench: Bench) -> None:
    bench.kept.put(session())
    await bench.sweep(payment(amount="49.00"))
    assert bench.status() is SessionStatus.NEEDS_REVIEW
    bench.tolerance = Decimal(5)
    await bench.sweep(payment("2", amount="49.00"))
    assert bench.status() is SessionStatus.PAID


async def test_payments_of_others_change_nothing(bench: Bench) -> None:
    bench.kept.put(session())
    await bench.sweep(payment("1", order_id=None), payment("2", order_id="elsewhere"), payment("3", order_id="ord-1"))
    assert bench.status() is SessionStatus.OPEN
    assert bench.kept.asked == ["ord-1", "elsewhere"]
    assert bench.ambiguous() == 0


async def test_of_two_payments_for_one_session_the_first_counts(bench: Bench) -> None:
    bench.kept.put(session())
    await bench.sweep(payment("12"), payment("9"))
    moved = bench.kept.sessions["cs_1"]
    assert moved.transaction is not None
    assert moved.transaction.id == "9"


@pytest.mark.parametrize(
    ("pages", "further"),
    [
        ([page_of(PAGE - 1, oldest=NOON)], []),
        ([page_of(PAGE, oldest=NOON - CLOCK_TOLERANCE - timedelta(seconds=1))], []),
        ([page_of(PAGE, oldest=NOON - CLOCK_TOLERANCE), ()], ["C0", "C1", "X0", "R0"]),
        ([page_of(PAGE, oldest=None), page_of(3, oldest=NOON)], ["C0", "C1", "X0", "R0"]),
        ([page_of(PAGE, oldest=NOON)], ["C0", "C1", "C2", "X0", "R0"]),
    ],
    ids=["not full", "older than what is due", "as old as may be", "of unknown age", "without end"],
)
async def test_further_pages_are_read_only_while_they_can_hold_what_is_looked_for(
    bench: Bench, pages: list[tuple[Transaction, ...]], further: list[str]
) -> None:
    bench.upstream.pages = [*pages]
    await bench.reconciliation.sweep()
    assert sum(most for _, most in FURTHER_PAGES) == 5
    assert [parameters for _, _, parameters in bench.upstream.calls] == [
        {"page": "0"},
        *({"status": name[0], "page": name[1]} for name in further),
    ]


@pytest.mark.parametrize("status", ["C", "X", "R"])
async def test_no_number_of_pending_payments_hides_one_that_was_made(bench: Bench, status: str) -> None:
    bench.kept.put(session())
    free = tuple(payment(str(n), order_id="elsewhere", status="P") for n in range(900, 900 - PAGE, -1))
    bench.upstream.pages = [free]
    bench.upstream.settled = (payment("7", status=status),)
    await bench.reconciliation.sweep()
    moved = bench.kept.sessions["cs_1"]
    assert moved.transaction is not None
    assert (moved.transaction.id, moved.status) != ("7", SessionStatus.OPEN)
    assert moved.transaction.raw_status == status


async def test_what_is_listed_twice_in_a_sweep_counts_as_it_was_last(bench: Bench) -> None:
    bench.kept.put(session())
    full = page_of(PAGE, oldest=NOON)
    bench.upstream.pages = [(payment("2000", status="P"), *full[1:])]
    bench.upstream.settled = (payment("2000"),)
    await bench.reconciliation.sweep()
    assert bench.status() is SessionStatus.PAID


async def test_what_was_listed_before_a_page_failed_still_counts(bench: Bench) -> None:
    bench.kept.put(session())
    first_page = page_of(PAGE, oldest=NOON)
    bench.upstream.pages = [(payment("2000"), *first_page[1:])]
    bench.upstream.fails_on = "C"
    await bench.reconciliation.sweep()
    assert bench.status() is SessionStatus.PAID
    assert "advance" not in bench.agenda.did
    assert bench.agenda.did[-1] == "release"


@pytest.mark.parametrize("failure", [UpstreamTimeout(), UpstreamBudgetExhausted(retry_after=7)], ids=lambda e: e.code)
async def test_when_quantapay_cannot_be_asked_sessions_stay_due_and_it_is_told_once(
    bench: Bench, failure: UpstreamError
) -> None:
    bench.kept.put(session())
    bench.upstream.pages = [failure]
    with capture_logs() as lines:
        for _ in range(3):
            await bench.reconciliation.sweep()
        assert bench.agenda.did == ["take", "release"] * 3
        await bench.sweep(payment())
        await bench.sweep(payment())
    assert bench.status() is SessionStatus.PAID
    assert lines == [
        {"event": "reconciliation interrupted", "cause": failure.code, "log_level": "info"},
        {"event": "reconciliation goes on", "log_level": "info"},
    ]


@pytest.mark.parametrize("step", ["take", "advance", "remove", "release"])
async def test_while_redis_is_away_nothing_is_raised_and_nothing_is_forgotten(bench: Bench, step: str) -> None:
    bench.kept.put(session())
    bench.agenda.fails = {step: StorageUnavailable()}
    old = timedelta(minutes=20)
    await bench.sweep(payment(), later=old)
    bench.agenda.fails = {}
    await bench.sweep(payment())
    assert bench.status() is SessionStatus.PAID
    assert bench.agenda.removed[-1:] == ["cs_1"]
    assert bench.agenda.did[-2:] == ["advance", "release"]


async def test_a_turn_that_cannot_be_given_back_is_no_failure(bench: Bench) -> None:
    bench.agenda.fails = {"release": StorageUnavailable()}
    with capture_logs() as lines:
        await bench.sweep(payment())
    assert lines == []


@pytest.mark.parametrize("failure", [StorageUnavailable(), ValueError("a text with secrets")])
async def test_a_session_that_cannot_be_moved_does_not_keep_others_from_their_payments(
    bench: Bench, failure: Exception
) -> None:
    bench.kept.put(session(), session("cs_2", order_id="ORD-2"))
    bench.kept.fails = {"ORD-1": failure}
    with capture_logs() as lines:
        await bench.sweep(payment("2", order_id="ORD-2"), payment("1"))
    assert bench.status("cs_2") is SessionStatus.PAID
    assert "secrets" not in str(lines)
    bench.kept.fails = {}
    await bench.sweep(payment("2", order_id="ORD-2"), payment("1"))
    assert bench.status() is SessionStatus.PAID


async def test_a_bug_ends_nothing_and_is_told_once_without_its_text(bench: Bench) -> None:
    bench.kept.put(session())
    bench.agenda.fails = {"take": ValueError("a text with secrets")}
    with capture_logs() as lines:
        for _ in range(3):
            await bench.sweep(payment())
    [line] = lines
    assert (line["log_level"], line["error"]) == ("error", "ValueError")
    assert line["frames"]
    assert "secrets" not in str(lines)
    bench.agenda.fails = {}
    await bench.sweep(payment())
    assert bench.status() is SessionStatus.PAID


async def test_a_payment_that_says_nothing_new_is_not_looked_up_each_time(bench: Bench) -> None:
    bench.kept.put(session())
    await bench.sweep(payment(), later=SETTLED_AFTER)
    assert bench.kept.asked == ["ORD-1"]
    await bench.sweep(payment(), later=MINUTE)
    assert bench.kept.asked == []
    await bench.sweep(payment(status="R"), later=MINUTE)
    assert bench.status() is SessionStatus.REFUNDED


async def test_what_redis_lost_is_made_up_for_after_ten_minutes(bench: Bench, heard) -> None:
    bench.kept.put(session())
    await bench.sweep(payment(), later=SETTLED_AFTER)
    bench.kept.put(session())
    heard.forget()
    await bench.sweep(payment(), later=timedelta(seconds=REMEMBERED_FOR))
    assert bench.status() is SessionStatus.PAID


@pytest.mark.parametrize("made", [NOON + MINUTE, None], ids=["young", "of unknown age"])
async def test_a_payment_is_looked_at_again_while_a_session_it_is_for_may_appear(
    bench: Bench, made: datetime | None
) -> None:
    await bench.sweep(payment(made=made))
    bench.kept.put(session())
    await bench.sweep(payment(made=made))
    assert bench.status() is SessionStatus.PAID


async def test_of_very_many_payments_the_latest_are_remembered(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconcile, "MOST_REMEMBERED", 2)
    rows = [payment(str(n), order_id=f"ORD-{n}") for n in (3, 2, 1)]
    await bench.sweep(*rows, later=SETTLED_AFTER)
    await bench.sweep(rows[0], rows[1])
    assert bench.kept.asked == []
    await bench.sweep(rows[2])
    assert bench.kept.asked == ["ORD-1"]


async def test_a_payment_for_either_of_two_orders_moves_none_and_is_told_once(bench: Bench) -> None:
    bench.kept.put(session("cs_1"), session("cs_2", price="59.99"))
    await bench.sweep(payment(status="P"))
    await bench.sweep(payment())
    await bench.sweep(payment(), later=SETTLED_AFTER)
    assert {bench.status("cs_1"), bench.status("cs_2")} == {SessionStatus.OPEN}
    assert bench.ambiguous() == 1


async def test_a_payment_that_was_told_of_as_ambiguous_is_left_to_whoever_was_told(bench: Bench, heard) -> None:
    bench.kept.put(session("cs_1"), session("cs_2", price="59.99"))
    await bench.sweep(payment())
    del bench.kept.sessions["cs_2"]
    await bench.sweep(payment())
    assert bench.status() is SessionStatus.OPEN
    assert heard.said() == [("payment.unmatched", "ambiguous", "1")]


async def test_what_is_found_is_told_as_confirmed_and_payments_of_others_are_not(bench: Bench, heard) -> None:
    bench.kept.put(session())
    others = [payment(str(n), order_id=order_id, status="X") for n, order_id in ((2, None), (3, ""), (4, "elsewhere"))]
    for _ in range(2):
        await bench.sweep(payment(), *others)
    assert heard.said() == [("payment.completed", None, "1")]
    assert heard.events[0].confirmed


async def test_a_payment_that_cannot_be_told_of_is_told_in_the_next_turn(bench: Bench, heard) -> None:
    bench.kept.put(session(), session("cs_2", order_id="ORD-2"))
    tell, failing = heard.tell, True

    async def fail(event: PaymentEvent) -> Told:
        if failing and event.payment.id == "1":
            raise StorageUnavailable
        return await tell(event)

    heard.tell = fail
    rows = [payment("2", order_id="ORD-2"), payment("1")]
    await bench.sweep(*rows, later=SETTLED_AFTER)
    assert bench.status() is SessionStatus.PAID
    assert bench.agenda.removed == ["cs_2"]
    assert "advance" not in bench.agenda.did
    failing = False
    await bench.sweep(*rows)
    assert [payment_id for _, _, payment_id in heard.said()] == ["2", "1"]
    assert bench.agenda.removed == ["cs_2", "cs_1"]


# Webhooks that were refused while Redis was away.


async def test_when_asked_it_has_all_sessions_due_once(bench: Bench) -> None:
    bench.reconciliation.hasten()
    bench.reconciliation.hasten()
    await bench.sweep()
    await bench.sweep()
    assert bench.agenda.did == ["hasten", *["take", "advance", "release"] * 2]


async def test_it_hastens_as_soon_as_redis_is_there(bench: Bench, heard) -> None:
    bench.kept.put(session())
    await bench.sweep(payment(), later=SETTLED_AFTER)
    bench.kept.put(session())
    heard.forget()
    bench.agenda.did.clear()
    bench.agenda.fails = {"hasten": StorageUnavailable()}
    bench.reconciliation.hasten()
    for _ in range(2):
        await bench.sweep(payment())
    assert bench.agenda.did == ["hasten", "hasten"]
    bench.agenda.fails = {}
    for _ in range(2):
        await bench.sweep(payment())
    assert bench.agenda.did[2:5] == ["hasten", "take", "remove"]
    assert bench.agenda.did.count("hasten") == 3
    assert bench.status() is SessionStatus.PAID, "what was remembered may be lost"


async def test_a_webhook_that_is_refused_while_it_hastens_has_it_hasten_again(bench: Bench) -> None:
    hasten = bench.agenda.hasten

    async def refused_meanwhile() -> None:
        bench.agenda.hasten = hasten  # type: ignore[method-assign]
        bench.reconciliation.hasten()

    bench.agenda.hasten = refused_meanwhile  # type: ignore[method-assign]
    bench.reconciliation.hasten()
    await bench.sweep()
    assert "hasten" not in bench.agenda.did
    await bench.sweep()
    assert "hasten" in bench.agenda.did


async def test_a_payment_made_before_its_sessions_is_for_none_and_not_ambiguous(bench: Bench) -> None:
    later = NOON + timedelta(hours=1)
    bench.kept.put(session("cs_1", made=later), session("cs_2", made=later, price="59.99"))
    await bench.sweep(payment())
    assert bench.ambiguous() == 0


async def test_a_session_that_vanished_meanwhile_is_no_failure(bench: Bench) -> None:
    bench.kept.put(session())

    async def gone(_session_id: str, _change: object) -> None:
        return None

    bench.kept.move = gone  # type: ignore[method-assign,assignment]
    await bench.sweep(payment())
    assert bench.agenda.did == ["take", "advance", "release"]


async def test_the_task_looks_about_every_second_until_it_is_closed(bench: Bench) -> None:
    before = asyncio.all_tasks()
    await bench.reconciliation.start()
    async with asyncio.timeout(5):
        while len(bench.agenda.did) < 30:
            bench.clock.wake.set()
            await asyncio.sleep(0)
    assert min(bench.clock.asked) >= 0.5 * TICK
    assert max(bench.clock.asked) < 1.5 * TICK
    assert len(set(bench.clock.asked)) > 1, "processes must not look in step"
    await bench.reconciliation.close()
    assert asyncio.all_tasks() == before
    await bench.reconciliation.close()


# The real parts, on a real Valkey.

LISTED = {
    "id": "42",
    "amount": "0.0125",
    "amount_fiat": "49.99000000",
    "cryptocurrency": "eth",
    "currency": "usd",
    "status": "C",
}


class Http:
    """QuantaPay over HTTP: lists its rows, and counts the calls."""

    def __init__(self) -> None:
        self.rows: list[dict[str, str]] = []
        self.forms: list[dict[str, str]] = []

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self.forms.append(dict(parse_qsl(request.content.decode())))
        await asyncio.sleep(0.02)
        body = json.dumps({"success": True, "response": self.rows}).encode()
        return httpx.Response(200, stream=httpx.ByteStream(body))


@asynccontextmanager
async def process(url: str, http: Http, events: Events) -> AsyncIterator[tuple[Sessions, Reconciliation]]:
    """What one process has of all this."""
    clock, metrics = SystemClock(), Metrics()
    store = Store(Redis.from_url(url, socket_timeout=20), clock=clock, metrics=metrics, deadline=20)
    quantapay = QuantaPay(
        Mocked(http),
        url="https://cloud.quantapay.app/api.php",
        api_keys=RotatingSecret(SecretStr("key")),
        signing_secrets=None,
        payment_urls=PaymentUrls(["cloud.quantapay.app"], upstream_on_loopback=False),
        timeout=10,
        upstream_name=str,
        budget=Unmetered(),
        clock=clock,
        metrics=metrics,
    )
    agenda = Agenda(store, clock=clock)
    sessions = Sessions(store, changes=Changes(store), agenda=agenda, metrics=metrics)
    yield (
        sessions,
        Reconciliation(
            quantapay=quantapay,
            agenda=agenda,
            settlement=Settlement(
                sessions=sessions,
                agenda=agenda,
                events=events,
                tolerance=lambda: Decimal(0),
                clock=clock,
                metrics=metrics,
            ),
            clock=clock,
        ),
    )
    await quantapay.close()
    await store.close()


def let_pass(valkey: ValkeyServer) -> None:
    """Have all on the agenda due, and the next turn free."""
    with valkey.client() as client:
        for member in client.zrange(KEY, 0, -1):
            client.zadd(KEY, {member: 1})
        client.delete(LEASE_KEY)


async def test_of_several_processes_one_call_finds_the_payment_and_then_there_are_none(
    valkey: ValkeyServer, heard
) -> None:
    http = Http()
    async with process(valkey.url, http, heard) as (sessions, one), process(valkey.url, http, heard) as (_, other):
        now = datetime.now(UTC).replace(microsecond=0)
        made = session(made=now, order_id="caf\u00e9")
        look_alike = session("cs_2", made=now, order_id="cafe\u0301")
        for each in (made, look_alike):
            await sessions.create(each)
            await sessions.publish(each)

        await one.sweep()
        assert http.forms == [], "nothing is due yet"
        let_pass(valkey)
        http.rows = [{**LISTED, "external_reference": made.order_id, "creation_time": f"{now:%Y-%m-%d %H:%M:%S}"}]
        await asyncio.gather(one.sweep(), other.sweep(), one.sweep(), other.sweep())
        assert len(http.forms) == 1
        assert http.forms[0].items() >= {"function": "get-transactions", "pagination": "0"}.items()
        assert "search" not in http.forms[0]

        paid, still_open = await sessions.get(made.id), await sessions.get(look_alike.id)
        assert paid is not None
        assert still_open == look_alike
        assert (paid.status, paid.version) == (SessionStatus.PAID, 2)
        with valkey.client() as client:
            assert [member.decode().partition(":")[2] for member in client.zrange(KEY, 0, -1)] == ["cs_2"]

        let_pass(valkey)
        http.rows = [
            {**http.rows[0], "id": "43", "external_reference": look_alike.order_id},
            *http.rows,
        ]
        await other.sweep()
        let_pass(valkey)
        await one.sweep()
        assert len(http.forms) == 2, "no session is open any more"
        unchanged = await sessions.get(made.id)
        assert unchanged == replace(paid)


async def test_a_payment_of_which_no_webhook_came_through_is_found_at_once_when_redis_is_back(
    valkey: ValkeyServer, heard
) -> None:
    http = Http()
    async with process(valkey.url, http, heard) as (sessions, reconciliation):
        now = datetime.now(UTC).replace(microsecond=0)
        made = session(made=now - timedelta(hours=20))
        await sessions.create(made)
        await sessions.publish(made)
        http.rows = [{**LISTED, "external_reference": made.order_id, "creation_time": f"{now:%Y-%m-%d %H:%M:%S}"}]
        await reconciliation.sweep()
        assert http.forms == [], "not due for a while"
        reconciliation.hasten()
        await reconciliation.sweep()
        found = await sessions.get(made.id)
        assert found is not None
        assert found.status is SessionStatus.PAID
        assert heard.said() == [("payment.completed", None, "42")]
        with valkey.client() as client:
            assert client.zcard(KEY) == 0
            assert client.pttl(LEASE_KEY) > 0, "turns stay apart"
