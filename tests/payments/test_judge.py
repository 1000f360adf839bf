"""Which event a payment is: every row of the interface's table, and what an attacker can try with one payment."""

from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.payments.judge import Doubt, Unmatched, Verdict, judge
from gateway.payments.session import Session, SessionStatus, question, settle
from gateway.quantapay.models import Transaction
from tests.plugins.payments import payment, session

ORDER = list(SessionStatus)


def step(before: Session, row: Transaction, doubt: Doubt | None = None, tolerance: Decimal = Decimal(0)) -> Session:
    return question(before, row) if doubt else settle(before, row, tolerance_percent=tolerance)


def told(before: Session | None, row: Transaction, **how) -> Verdict | None:
    """Return the verdict on a payment, once it moved the session."""
    after = None if before is None else step(before, row, how.get("doubt"))
    return judge(after, row, tolerance_percent=Decimal(0), **how)


OPEN = session()
PAID = step(OPEN, payment())
REFUNDED = step(PAID, payment("refunded"))
UNDERPAID = step(OPEN, payment("underpaid", id="40"))
IN_REVIEW = step(OPEN, payment(id="40", currency="eur"))
DOUBTED = step(OPEN, payment(), "not-confirmed")


@pytest.mark.parametrize(
    ("before", "row", "expected"),
    [
        (OPEN, payment(), ("payment.completed", None)),
        (OPEN, payment(fiat_amount=Decimal("49.9900000")), ("payment.completed", None)),
        (OPEN, payment(fiat_amount=Decimal(50)), ("payment.completed", None)),
        (OPEN, payment(currency="USD"), ("payment.completed", None)),
        (UNDERPAID, payment(), ("payment.completed", None)),
        (IN_REVIEW, payment(), ("payment.completed", None)),
        (DOUBTED, payment(), ("payment.completed", None)),
        (OPEN, payment(fiat_amount=Decimal("49.98")), ("payment.mismatched", "amount")),
        (OPEN, payment(fiat_amount=Decimal(-50)), ("payment.mismatched", "amount")),
        (OPEN, payment(fiat_amount=None), ("payment.mismatched", "amount")),
        (OPEN, payment(currency="eur"), ("payment.mismatched", "currency")),
        (OPEN, payment(currency="eur", fiat_amount=Decimal(1)), ("payment.mismatched", "currency")),
        (OPEN, payment(currency=None), ("payment.mismatched", "currency")),
        (OPEN, payment(currency="usd "), ("payment.mismatched", "currency")),
        (None, payment(), ("payment.unmatched", "no-session")),
        (PAID, payment(id="42"), ("payment.duplicate", None)),
        (PAID, payment(id="42", fiat_amount=Decimal(1)), ("payment.duplicate", None)),
        (REFUNDED, payment(id="42"), ("payment.duplicate", None)),
        *(
            (before, payment(status, id=id_, **other), (f"payment.{status}", None))
            for before in (None, OPEN, UNDERPAID, IN_REVIEW, DOUBTED, PAID, REFUNDED)
            for status in ("underpaid", "refunded")
            for id_ in ("41", "42")
            for other in ({}, {"fiat_amount": Decimal(1)}, {"currency": "eur"})
        ),
    ],
)
def test_the_table_of_events(before: Session | None, row: Transaction, expected: tuple[str, str | None]) -> None:
    assert told(before, row) == Verdict(*expected)


@pytest.mark.parametrize("before", [None, OPEN, UNDERPAID, PAID])
@pytest.mark.parametrize("doubt", [None, *get_args(Doubt)])
@pytest.mark.parametrize("status", ["pending", "unknown"])
def test_of_a_payment_that_brought_no_money_nothing_is_told(
    before: Session | None, doubt: Doubt | None, status: str
) -> None:
    assert told(before, payment(status), doubt=doubt) is None


@pytest.mark.parametrize("before", [None, OPEN, UNDERPAID, IN_REVIEW, PAID, REFUNDED])
@pytest.mark.parametrize("doubt", get_args(Doubt))
@pytest.mark.parametrize("status", ["completed", "underpaid", "refunded"])
def test_a_doubt_outweighs_all_that_a_payment_says(before: Session | None, doubt: Doubt, status: str) -> None:
    assert told(before, payment(status), doubt=doubt) == Verdict("payment.mismatched", doubt)


@pytest.mark.parametrize("why", get_args(Unmatched))
def test_an_unmatched_payment_says_why(why: Unmatched) -> None:
    assert told(None, payment(), unmatched=why) == Verdict("payment.unmatched", why)
    assert told(OPEN, payment(), unmatched=why) == Verdict("payment.completed"), "it matters only without a session"


def test_less_is_enough_within_the_tolerance_also_once_that_is_another() -> None:
    row = payment(fiat_amount=Decimal("47.50"))
    paid = step(OPEN, row, tolerance=Decimal(5))
    for tolerance in (Decimal(5), Decimal(0)):
        assert judge(paid, row, tolerance_percent=tolerance) == Verdict("payment.completed")
    strict = step(OPEN, row, tolerance=Decimal(4))
    assert judge(strict, row, tolerance_percent=Decimal(4)) == Verdict("payment.mismatched", "amount")


def test_a_completion_that_comes_after_its_refund_is_still_told() -> None:
    given_back = step(OPEN, payment("refunded", hash="0xcc"))
    assert told(given_back, payment()) == Verdict("payment.completed")
    # QuantaPay says of some refunds only what went back.
    partly = step(PAID, payment("refunded", fiat_amount=Decimal(10)))
    assert told(partly, payment()) == Verdict("payment.completed")
    assert told(partly, payment(fiat_amount=Decimal("49.98"))) == Verdict("payment.mismatched", "amount")


@given(
    steps=st.lists(
        st.tuples(
            st.builds(
                payment,
                st.sampled_from(["pending", "completed", "underpaid", "refunded", "unknown"]),
                id=st.sampled_from(["40", "41", "42"]),
                fiat_amount=st.sampled_from([None, *map(Decimal, ("0", "10", "47.49", "47.50", "49.99", "1E+3"))]),
                currency=st.sampled_from([None, "", "usd", "USD", "eur"]),
            ),
            st.sampled_from([None, None, *get_args(Doubt)]),
        ),
        max_size=8,
    ),
    tolerance=st.sampled_from([Decimal(0), Decimal(5)]),
)
def test_whatever_happens_to_a_session_completed_means_the_price_was_paid(steps, tolerance) -> None:
    reached = OPEN
    for row, doubt in steps:
        before, reached = reached, step(reached, row, doubt, tolerance)
        assert ORDER.index(reached.status) >= ORDER.index(before.status)
        verdict = judge(reached, row, tolerance_percent=tolerance, doubt=doubt)
        assert verdict == judge(step(reached, row, doubt, tolerance), row, tolerance_percent=tolerance, doubt=doubt)
        became_paid = reached.status is SessionStatus.PAID and before.status is not SessionStatus.PAID
        if became_paid:
            assert verdict == Verdict("payment.completed")
        if verdict == Verdict("payment.completed"):
            assert doubt is None
            assert row.status == "completed"
            assert Fraction(row.fiat_amount) >= Fraction("49.99") * (100 - Fraction(tolerance)) / 100
            assert row.currency.lower() == "usd"
            assert reached.status.is_final
            assert reached.transaction.id == row.id
        if doubt and verdict:
            assert replace(reached, status=before.status, transaction=before.transaction, version=0) == replace(
                before, version=0
            )
            assert reached.status.is_final == before.status.is_final
