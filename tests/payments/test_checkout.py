"""How long a browser's order waits for an equal one, and what is left of its time then."""

from dataclasses import dataclass, field, replace

import pytest

from gateway.clock import SystemClock
from gateway.errors import IdempotencyInProgress, OrderAlreadyPaid, OrderConflict, StorageUnavailable, UpstreamTimeout
from gateway.payments.checkout import LEAST_LEFT, SLOWEST_POLL, Checkout, Order
from gateway.payments.session import Session, SessionStatus
from gateway.quantapay.models import CheckoutPage
from gateway.store.orders import OrderClaim, Taken, UnderWay
from gateway.telemetry.metrics import Metrics

TIMEOUT = 10.0
ORDER = Order(price="49.99", currency="usd")


class HeldClock(SystemClock):
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


class Claim(OrderClaim):
    """A claim that may turn out to be lost to another."""

    def __init__(self, shown: str | None = None) -> None:
        self.shown = shown
        self.released = False

    async def complete(self, session_id: str) -> str:
        return self.shown or session_id

    async def release(self) -> None:
        self.released = True


@dataclass
class World:
    """Everything around a checkout; it is also its order book, its store and its QuantaPay."""

    clock: HeldClock = field(default_factory=HeldClock)
    free_at: float = 0.0
    """When the equal request that is under way ends."""
    outcome: OrderClaim | Taken = field(default_factory=Claim)
    same: bool = True
    fails: Exception | None = None
    within: float | None = None
    created: dict[str, Session] = field(default_factory=dict)
    published: list[str] = field(default_factory=list)

    def checkout(self) -> Checkout:
        return Checkout(
            orders=self,
            order_sessions=Claims(self),
            sessions=self,
            quantapay=self,
            timeout=TIMEOUT,
            clock=self.clock,
            metrics=Metrics(),
        )

    async def ask(self) -> tuple[Session, bool]:
        return await self.checkout().find_or_make("shop", ORDER, order_id="ORD-1")

    async def claim(self, client_id: str, order_id: str) -> None:
        assert (client_id, order_id) == ("shop", "ORD-1")

    async def create_checkout_session(self, *, price, currency, order_id, within) -> CheckoutPage:
        self.within = within
        if self.fails:
            raise self.fails
        return CheckoutPage(payment_url="https://pay.example/1")

    async def create(self, session: Session) -> None:
        self.created[session.id] = session

    async def publish(self, session: Session) -> None:
        self.published.append(session.id)

    async def get(self, session_id: str) -> Session | None:
        return self.created.get(session_id)


@dataclass
class Claims:
    world: World

    async def claim(self, client_id: str, order_id: str, fingerprint: str) -> OrderClaim | Taken | UnderWay:
        if self.world.clock.now < self.world.free_at:
            return UnderWay(same=self.world.same)
        return self.world.outcome


async def test_who_waited_has_only_the_rest_of_its_time() -> None:
    world = World(free_at=4.0)
    session, is_new = await world.ask()
    assert is_new
    assert world.published == [session.id]
    assert world.within == pytest.approx(TIMEOUT - world.clock.now)
    assert world.clock.now < 4.0 + SLOWEST_POLL


async def test_who_waits_gives_up_while_a_page_could_still_be_made_in_time() -> None:
    world = World(free_at=100.0)
    with pytest.raises(IdempotencyInProgress) as refused:
        await world.ask()
    assert refused.value.retry_after == 1
    assert TIMEOUT - LEAST_LEFT - SLOWEST_POLL <= world.clock.now <= TIMEOUT - LEAST_LEFT
    assert world.created == {}


async def test_looks_become_rarer() -> None:
    world = World(free_at=8.0)
    await world.ask()
    assert world.clock.slept[0] <= 0.05
    assert len(world.clock.slept) < 40
    assert max(world.clock.slept) <= SLOWEST_POLL


async def test_a_request_for_another_price_does_not_wait() -> None:
    world = World(free_at=1.0, same=False)
    with pytest.raises(IdempotencyInProgress):
        await world.ask()
    assert world.clock.slept == []


async def test_a_create_that_failed_frees_the_order() -> None:
    claim = Claim()
    world = World(outcome=claim, fails=UpstreamTimeout())
    with pytest.raises(UpstreamTimeout):
        await world.ask()
    assert claim.released
    assert world.published == []


async def test_an_owner_that_lost_its_claim_shows_the_others_session_and_never_publishes_its_own() -> None:
    world = World()
    first, _ = await world.ask()
    world.outcome = Claim(shown=first.id)
    shown, is_new = await world.ask()
    assert (shown, is_new) == (first, False)
    assert len(world.created) == 2
    assert set(world.published) == {first.id}


@pytest.mark.parametrize(
    ("same", "status", "error"), [(False, "open", OrderConflict), (True, "paid", OrderAlreadyPaid)]
)
async def test_what_an_order_has_decides_what_a_page_is_told(same, status, error) -> None:
    world = World()
    session, _ = await world.ask()
    world.created[session.id] = replace(session, status=SessionStatus(status))
    world.outcome = Taken(session.id, same=same)
    with pytest.raises(error):
        await world.ask()


async def test_an_order_whose_session_redis_lost_is_not_given_a_second_one() -> None:
    world = World(outcome=Taken("cs_gone", same=True))
    with pytest.raises(StorageUnavailable):
        await world.ask()
    assert world.created == {}
