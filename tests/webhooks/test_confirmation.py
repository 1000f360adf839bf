"""A payment counts as QuantaPay says when it is asked, and not as a webhook says."""

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from gateway.config import Webhooks
from gateway.errors import (
    FunctionNotSupported,
    Overloaded,
    UpstreamBudgetExhausted,
    UpstreamCredentialsRejected,
    UpstreamInvalidResponse,
    UpstreamRejected,
    UpstreamThrottled,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from gateway.quantapay.guard import BreakerOpen
from gateway.quantapay.models import Transaction
from gateway.quantapay.urgency import Urgency
from gateway.webhooks.confirmation import Accepted, Answer, Confirmation, Denied, Unknown, Unsupported
from tests.plugins.payments import WEBHOOK_PAYMENT as PAYMENT

LETTERS = {"completed": "C", "underpaid": "X", "refunded": "R", "pending": "P", "unknown": "?"}


class Upstream:
    """QuantaPay with one answer."""

    def __init__(self, answer: Transaction | Exception | None) -> None:
        self.answer = answer
        self.calls: list[tuple[str, Urgency, dict[str, str]]] = []

    async def call(self, function, parameters):
        self.calls.append((function.name, function.urgency, parameters))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


async def check(
    answer: Transaction | Exception | None, payment: Transaction = PAYMENT, confirm: str = "when-available"
) -> Answer:
    confirmation = Confirmation(Upstream(answer), lambda: Webhooks(confirm=confirm))
    return await confirmation.check(payment, urgency=Urgency.URGENT)


async def test_the_row_that_is_read_back_counts() -> None:
    row = replace(
        PAYMENT, hash="0xcc", fiat_amount=Decimal("49.99000000"), created_at=datetime(2026, 4, 10, tzinfo=UTC)
    )
    answer = await check(row)
    assert answer == Accepted(row, confirmed=True)
    assert answer.payment.hash == "0xcc"


async def test_it_is_asked_for_by_its_id_as_urgently_as_wanted() -> None:
    upstream = Upstream(PAYMENT)
    confirmation = Confirmation(upstream, Webhooks)
    for urgency in (Urgency.URGENT, Urgency.BACKGROUND):
        await confirmation.check(PAYMENT, urgency=urgency)
    assert upstream.calls == [
        ("get-transaction", Urgency.URGENT, {"id": "42"}),
        ("get-transaction", Urgency.BACKGROUND, {"id": "42"}),
    ]


@pytest.mark.parametrize(
    ("told", "read", "good"),
    [(told, read, read in goods)
     for told, goods in (("completed", {"completed", "refunded"}), ("underpaid", {"underpaid", "completed", "refunded"}),
                         ("refunded", {"refunded"}))
     for read in LETTERS],
)  # fmt: skip
async def test_a_status_may_have_moved_on_but_not_back(told: str, read: str, good: bool) -> None:
    payment = replace(PAYMENT, status=told, raw_status=LETTERS[told])
    row = replace(PAYMENT, status=read, raw_status=LETTERS[read])
    assert await check(row, payment) == (Accepted(row, confirmed=True) if good else Denied())


@pytest.mark.parametrize(
    "change",
    [
        {"id": "43"},
        {"fiat_amount": Decimal("0.01")},
        {"fiat_amount": None},
        {"amount": Decimal("0.0124")},
        {"currency": "eur"},
        {"cryptocurrency": "btc"},
        {"order_id": "ORD-10"},
        {"order_id": None},
    ],
    ids=str,
)
async def test_other_content_is_denied(change: dict[str, object]) -> None:
    assert await check(replace(PAYMENT, **change)) == Denied()


@pytest.mark.parametrize("name", ["amount", "cryptocurrency", "fiat_amount", "currency", "order_id"])
async def test_what_a_webhook_leaves_out_is_not_contradicted(name: str) -> None:
    assert await check(PAYMENT, replace(PAYMENT, **{name: None})) == Accepted(PAYMENT, confirmed=True)


async def test_an_unknown_payment_is_denied() -> None:
    assert await check(None) == Denied()


@pytest.mark.parametrize("payment_id", ["", "abc", "42 ", "-42", "4.2", "٤٢", "42 OR 1=1", "4" * 21, "\ufffd"])
async def test_an_id_that_cannot_be_is_denied_without_a_call(payment_id: str) -> None:
    payment = replace(PAYMENT, id=payment_id)
    upstream = Upstream(payment)
    confirmation = Confirmation(upstream, lambda: Webhooks(confirm="required"))
    assert await confirmation.check(payment, urgency=Urgency.URGENT) == Denied()
    assert upstream.calls == []


@pytest.mark.parametrize(
    ("confirm", "expected"),
    [("when-available", Unsupported()), ("required", Denied())],
)
async def test_an_account_without_the_function(confirm: str, expected: Answer) -> None:
    assert await check(FunctionNotSupported(), confirm=confirm) == expected


@pytest.mark.parametrize("confirm", ["when-available", "required"])
@pytest.mark.parametrize(
    ("error", "asked"),
    [
        (UpstreamTimeout(), True),
        (UpstreamUnavailable(), True),
        (UpstreamThrottled(), True),
        (UpstreamCredentialsRejected(), True),
        (UpstreamRejected(), True),
        (UpstreamInvalidResponse(), True),
        (UpstreamBudgetExhausted(), False),
        (Overloaded(), False),
        (BreakerOpen(), False),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_no_answer_says_nothing(error: Exception, asked: bool, confirm: str) -> None:
    assert await check(error, confirm=confirm) == Unknown(error.code, asked=asked)


async def test_where_it_is_off_nobody_is_asked_and_the_file_is_read_anew_each_time() -> None:
    upstream, sections = Upstream(None), [Webhooks(confirm="off"), Webhooks(confirm="required")]
    confirmation = Confirmation(upstream, lambda: sections.pop(0))
    assert await confirmation.check(PAYMENT, urgency=Urgency.URGENT) == Accepted(PAYMENT, confirmed=False)
    assert upstream.calls == []
    assert await confirmation.check(PAYMENT, urgency=Urgency.URGENT) == Denied()


@pytest.mark.parametrize(
    ("confirm", "payment_id", "asks"),
    [("required", "42", True), ("when-available", "42", True), ("off", "42", False), ("required", "42x", False)],
)
def test_it_says_whether_it_would_ask(confirm: str, payment_id: str, asks: bool) -> None:
    confirmation = Confirmation(Upstream(None), lambda: Webhooks(confirm=confirm))
    assert confirmation.asks(replace(PAYMENT, id=payment_id)) is asks
