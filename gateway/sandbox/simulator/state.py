"""What the simulated account remembers: checkout sessions and transactions.

Nothing here runs in the background: a payment settles, and a session pays itself, when somebody looks later.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Literal, TypeAlias

from gateway.clock import Clock, utc
from gateway.sandbox.simulator import market
from gateway.sandbox.simulator.options import SimulatorOptions
from gateway.sandbox.simulator.php import Json

Row: TypeAlias = dict[str, Json]
"""A transaction as the API shows it, contract §6.4 in its form of 8 April 2026."""
Settled: TypeAlias = Literal["C", "X"]
"""How a payment ends: completed, or underpaid (contract §7)."""

PENDING = "P"
DATETIME_FORMAT = "%Y-%m-%d %H:%M:%S"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a customer is asked to pay: fiat `price` in `currency`, for the merchant's `reference`."""

    price: Decimal
    currency: str
    reference: str = ""
    title: str = ""
    description: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A checkout session; paying is for its page, and every payment makes a transaction of its own."""

    id: str
    order: Order
    created_at: float
    pays_itself_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Transaction:
    """A row, and what becomes of it at a later time."""

    id: int
    row: Mapping[str, Json]
    settled: Mapping[str, Json] = field(default_factory=dict)
    """The fields that change on settling."""
    settles_at: float | None = None
    """Unix seconds; None: the row stays as it is."""

    def seen_at(self, now: float) -> Row:
        """Return the row as it is at `now`, Unix seconds."""
        due = self.settles_at is not None and now >= self.settles_at
        return {**self.row, **self.settled} if due else dict(self.row)


class Ledger:
    """The account's sessions and transactions."""

    def __init__(self, options: SimulatorOptions, clock: Clock) -> None:
        self._options = options
        self._clock = clock
        self._sessions: dict[str, Session] = {}
        self._self_paying: deque[Session] = deque()
        self._transactions: dict[int, Transaction] = {}
        self._watched: set[int] = set()
        """Rows whose next settled status `take_settled` has still to return."""

    def clear(self) -> None:
        """Forget everything; ids start again."""
        self._sessions.clear()
        self._self_paying.clear()
        self._transactions.clear()
        self._watched.clear()

    def open_session(self, order: Order) -> Session:
        """Make a session; like the real one's, it is no transaction yet (contract §6.1)."""
        now = self._clock.time()
        after = self._options.pays_itself_after
        session = Session(
            id=f"cs_{self._clock.token_hex(10)}",
            order=order,
            created_at=now,
            pays_itself_at=None if after is None else now + after,
        )
        self._sessions[session.id] = session
        if session.pays_itself_at is not None:
            self._self_paying.append(session)
        return session

    def session(self, session_id: str) -> Session | None:
        """Return the session with this id."""
        return self._sessions.get(session_id)

    def pay(self, order: Order, *, cryptocurrency: str, ends: Settled = "C") -> Row | None:
        """Record a payment that settles a moment later; None when the pair has no rate."""
        self._pay_due_sessions()
        return self._pay(order, cryptocurrency=cryptocurrency, ends=ends, at=self._clock.time())

    def insert(self, fields: Mapping[str, Json]) -> Row:
        """Add a row that is completed unless `fields` say otherwise; they may hold anything but another `id`."""
        self._pay_due_sessions()
        now = self._clock.time()
        order = Order(price=Decimal("25.00"), currency="usd")
        pending = self._pending_row(order, cryptocurrency="eth", amount=Decimal("0.0125"), at=now)
        return self._add({**pending, **self._settled_fields(pending, "C"), **fields})

    def amend(self, transaction_id: int, fields: Mapping[str, Json]) -> Row | None:
        """Change fields of a row; a `status` other than pending settles it first. None: no such row."""
        self._pay_due_sessions()
        held = self._transactions.get(transaction_id)
        if held is None:
            return None
        now = self._clock.time()
        before = held.seen_at(now)
        if "status" in fields:
            base = held.row if fields["status"] == PENDING else {**held.row, **held.settled}
            held = replace(held, row=base, settles_at=None)
        changed = replace(held, row={**held.row, **fields, "id": str(held.id)})
        self._transactions[held.id] = changed
        if changed.seen_at(now)["status"] != before["status"]:
            self._watched.add(held.id)
        return changed.seen_at(now)

    def row(self, transaction_id: int) -> Row | None:
        """Return one row as it is now."""
        self._pay_due_sessions()
        held = self._transactions.get(transaction_id)
        return None if held is None else held.seen_at(self._clock.time())

    def rows(self) -> Iterator[Row]:
        """Yield every row as it is now, newest id first."""
        self._pay_due_sessions()
        now = self._clock.time()
        return (held.seen_at(now) for held in reversed(self._transactions.values()))

    def take_settled(self) -> list[Row]:
        """Return the rows that are no longer pending, each once for every status that it gets, oldest first."""
        self._pay_due_sessions()
        now = self._clock.time()
        seen = [(number, self._transactions[number].seen_at(now)) for number in sorted(self._watched)]
        settled = {number: row for number, row in seen if row["status"] != PENDING}
        self._watched -= settled.keys()
        return list(settled.values())

    def _pay_due_sessions(self) -> None:
        """Pay the sessions whose time has come; all wait equally long, so the first opened is the first due."""
        now = self._clock.time()
        while self._self_paying:
            session = self._self_paying[0]
            if session.pays_itself_at is None or session.pays_itself_at > now:
                return
            self._self_paying.popleft()
            self._pay(session.order, cryptocurrency="btc", ends="C", at=session.pays_itself_at)

    def _pay(self, order: Order, *, cryptocurrency: str, ends: Settled, at: float) -> Row | None:
        amount = market.coins_for(order.price, cryptocurrency=cryptocurrency, currency=order.currency)
        if amount is None:
            return None
        row = self._pending_row(order, cryptocurrency=cryptocurrency, amount=amount, at=at)
        return self._add(row, settled=self._settled_fields(row, ends), settles_at=at + self._options.completes_after)

    def _add(
        self,
        row: Mapping[str, Json],
        *,
        settled: Mapping[str, Json] | None = None,
        settles_at: float | None = None,
    ) -> Row:
        number = len(self._transactions) + 1
        added = Transaction(id=number, row={**row, "id": str(number)}, settled=settled or {}, settles_at=settles_at)
        self._transactions[number] = added
        self._watched.add(number)
        return added.seen_at(self._clock.time())

    def _pending_row(self, order: Order, *, cryptocurrency: str, amount: Decimal, at: float) -> Row:
        return {
            "id": "",
            "biz_id": f"QP-{utc(at):%Y%m%d}-{self._clock.token_hex(3)[:5].upper()}",
            "title": order.title,
            "description": order.description,
            "from": "",
            "to": f"simulated-{cryptocurrency}-merchant",
            "hash": "",
            "amount": format(amount, "f"),
            "amount_fiat": format(order.price, ".8f"),
            "cryptocurrency": cryptocurrency,
            "currency": order.currency.lower(),
            "external_reference": order.reference,
            "creation_time": utc(at).strftime(DATETIME_FORMAT),
            "status": PENDING,
            "webhook": "0",
            "vat": "0",
            "billing": "",
            "checkout_id": None,
            "type": "2",
        }

    def _settled_fields(self, row: Row, status: Settled) -> Row:
        """Return what settling changes; an underpaid row keeps the asked amounts and notes the received one."""
        settled: Row = {
            "status": status,
            "from": f"simulated-{row['cryptocurrency']}-payer",
            "hash": f"0x{self._clock.token_hex(32)}",
        }
        if status == "X":
            return {**settled, "description": f"Underpaid: half of {row['amount']} received"}
        return {**settled, "webhook": "1"}
