"""How payments move a session, and which session a payment is for."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from functools import reduce

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.payments.session import CLOCK_TOLERANCE, Session, SessionStatus, match, question, settle
from gateway.quantapay.models import Transaction
from tests.plugins.payments import MADE, payment, session

ORDER = ["open", "underpaid", "needs_review", "paid", "refunded"]


def after(payments: Sequence[Transaction], start: Session, *, tolerance: Decimal = Decimal(0)) -> Session:
    return reduce(lambda reached, row: settle(reached, row, tolerance_percent=tolerance), payments, start)


def rank(reached: Session) -> int:
    return ORDER.index(reached.status)


statuses = st.sampled_from(["pending", "completed", "underpaid", "refunded", "unknown"])
amounts = st.sampled_from(
    [None, Decimal("49.99"), Decimal("49.9900000"), Decimal("49.98"), Decimal(0), Decimal("1E+3")]
)
rows = st.builds(
    payment,
    statuses,
    id=st.sampled_from(["9", "10", "11"]),
    fiat_amount=amounts,
    currency=st.sampled_from([None, "usd", "USD", "eur"]),
    hash=st.sampled_from([None, "0xcc"]),
)
histories = st.lists(rows, max_size=6)


# Rules that hold for any history.


@given(payments=histories)
def test_a_session_only_moves_forward_and_each_version_is_one_change(payments) -> None:
    before = session()
    for row in payments:
        reached = settle(before, row, tolerance_percent=Decimal(0))
        assert rank(reached) >= rank(before)
        if reached != before:
            assert reached.transaction == row
            assert replace(reached, status=before.status, transaction=before.transaction) == replace(
                before, version=before.version + 1
            )
        else:
            assert reached is before
        before = reached


@given(steps=st.lists(st.tuples(rows, st.booleans()), max_size=8))
def test_doubts_never_end_a_session_nor_move_it_back(steps) -> None:
    before = session()
    for row, certain in steps:
        reached = settle(before, row, tolerance_percent=Decimal(0)) if certain else question(before, row)
        assert rank(reached) >= rank(before)
        assert reached.version == before.version + (reached != before)
        if not certain:
            assert reached.status.is_final == before.status.is_final
        before = reached


@given(payments=histories, row=rows)
def test_a_payment_told_of_twice_moves_nothing_the_second_time(payments, row) -> None:
    reached = after([*payments, row], session())
    assert settle(reached, row, tolerance_percent=Decimal(0)) is reached


@given(payments=st.lists(rows, max_size=6, unique_by=lambda row: row.id), again=st.randoms())
def test_what_was_listed_moves_nothing_when_it_is_listed_again(payments, again) -> None:
    reached = after(payments, session())
    assert after(payments, reached) is reached
    again.shuffle(payments)
    assert after(payments, reached) is reached


@given(payments=st.lists(rows.filter(lambda row: row.status != "refunded"), max_size=6), order=st.randoms())
def test_in_whatever_order_payments_come_the_best_counts(payments, order) -> None:
    best = max([rank(after([row], session())) for row in payments], default=0)
    assert rank(after(payments, session())) == best
    order.shuffle(payments)
    assert rank(after(payments, session())) == best


@given(payments=histories, order=st.randoms())
def test_in_whatever_order_the_states_of_one_payment_come_the_last_of_its_life_counts(payments, order) -> None:
    payments = [replace(row, id="41") for row in payments if row.status != "refunded"]
    reached = after(payments, session())
    order.shuffle(payments)
    assert after(payments, session()).status == reached.status


@given(payments=histories)
def test_a_session_once_paid_is_paid_or_given_back(payments) -> None:
    reached = after(payments, after([payment()], session()))
    refunded = any(row.status == "refunded" and row.id == "41" for row in payments)
    assert reached.status == ("refunded" if refunded else "paid")
    assert reached.status.is_final


decimals = st.decimals(min_value=0, max_value=10**12, places=8, allow_nan=False)
prices = decimals.filter(bool).map(lambda amount: format(amount, "f"))
digits = st.integers(-(10**6), 10**6)


@given(
    price=prices,
    tolerance=st.decimals(min_value=0, max_value=100, places=3),
    nearly=digits,
    exponent=st.integers(-60, 2),
    currency=st.sampled_from(["usd", "USD", "Usd", "eur", "", None]),
)
@example(price="49.99", tolerance=Decimal(0), nearly=-1, exponent=-60, currency="usd")
@example(price="49.99", tolerance=Decimal(0), nearly=0, exponent=0, currency="usd")
def test_paid_is_what_was_asked_for_less_the_tolerance_and_not_a_trace_less(
    price, tolerance, nearly, exponent, currency
) -> None:
    least = Fraction(price) * (100 - Fraction(tolerance)) / 100
    amount = exact(least + nearly * Fraction(10) ** exponent)
    row = payment(fiat_amount=amount, currency=currency)
    reached = settle(session(price=price), row, tolerance_percent=tolerance)
    enough = Fraction(amount) >= least and (currency or "").lower() == "usd"
    assert reached.status == ("paid" if enough else "needs_review")


def exact(value: Fraction) -> Decimal:
    """Return a decimal fraction with all its digits."""
    places = 80
    scaled = value * 10**places
    assert scaled.denominator == 1
    return Decimal(f"{scaled.numerator}E-{places}")


# One by one.


@pytest.mark.parametrize(
    ("row", "status"),
    [
        (payment("pending"), "open"),
        (payment("unknown"), "open"),
        (payment("underpaid"), "underpaid"),
        (payment("completed"), "paid"),
        (payment("completed", fiat_amount=Decimal("49.99000000")), "paid"),
        (payment("completed", fiat_amount=Decimal("1E+2")), "paid"),
        (payment("completed", fiat_amount=Decimal("49.98")), "needs_review"),
        (payment("completed", fiat_amount=Decimal(-50)), "needs_review"),
        (payment("completed", fiat_amount=None), "needs_review"),
        (payment("completed", currency="eur"), "needs_review"),
        (payment("completed", currency=None), "needs_review"),
        (payment("refunded"), "refunded"),
    ],
)
def test_what_a_first_payment_makes_of_a_session(row: Transaction, status: str) -> None:
    reached = after([row], session())
    assert (reached.status, reached.transaction, reached.version) == (status, row, 2)
    assert reached.status.is_final == (status in {"paid", "refunded"})


def test_less_is_enough_within_the_tolerance() -> None:
    row = payment(fiat_amount=Decimal("47.4905"))
    assert after([row], session(), tolerance=Decimal(5)).status is SessionStatus.PAID
    assert after([row], session(), tolerance=Decimal("4.99")).status is SessionStatus.NEEDS_REVIEW


def test_of_payments_under_way_the_newest_is_shown() -> None:
    reached = after([payment("pending", id="9"), payment("pending", id="10"), payment("pending", id="8")], session())
    assert (reached.transaction.id, reached.version) == ("10", 3)


def test_news_of_the_payment_that_is_shown_make_a_version() -> None:
    reached = after([payment(hash=None), payment(hash="0xcc"), payment(hash="0xcc")], session())
    assert (reached.status, reached.transaction.hash, reached.version) == ("paid", "0xcc", 3)


def test_a_second_payment_of_a_paid_session_changes_nothing_and_neither_does_giving_it_back() -> None:
    paid = after([payment(id="41")], session())
    assert after([payment(id="42"), payment("underpaid", id="43"), payment("refunded", id="42")], paid) is paid
    assert after([payment("refunded", id="41")], paid).status is SessionStatus.REFUNDED


@pytest.mark.parametrize("first", [payment("underpaid"), payment(currency="eur")], ids=["underpaid", "needs_review"])
def test_giving_back_a_second_payment_leaves_the_first_to_be_seen_to(first: Transaction) -> None:
    reached = after([first], session())
    assert after([payment("refunded", id="42")], reached) is reached
    given_back = after([payment("refunded", id="41")], reached)
    assert (given_back.status, given_back.transaction.status) == (reached.status, "refunded")
    for seen in (reached, given_back):
        assert after([payment("completed", id="42")], seen).status is SessionStatus.PAID


def test_a_strangers_cent_that_is_given_back_does_not_close_the_order() -> None:
    cent = payment(id="41", fiat_amount=Decimal("0.01"))
    for history in ([cent, replace(cent, status="refunded")], [replace(cent, status="refunded")]):
        reached = after(history, session())
        assert reached.status is SessionStatus.NEEDS_REVIEW
        assert after([payment(id="42")], reached).status is SessionStatus.PAID


# Payments that nobody can be certain of.


@pytest.mark.parametrize("status", ["completed", "underpaid", "refunded"])
@pytest.mark.parametrize("before", [[], [payment("pending")], [payment("underpaid")]], ids=["new", "seen", "underpaid"])
def test_a_doubt_has_an_unpaid_session_looked_at_by_a_person(before: list[Transaction], status: str) -> None:
    reached = after(before, session())
    doubted = question(reached, payment(status, id="66"))
    assert (doubted.status, doubted.version) == (SessionStatus.NEEDS_REVIEW, reached.version + 1)
    assert doubted.transaction == payment("unknown", id="66")
    assert question(doubted, payment(status, id="67")) is doubted


@pytest.mark.parametrize("status", ["pending", "unknown"])
def test_a_doubt_about_a_payment_without_money_says_nothing(status: str) -> None:
    only = session()
    assert question(only, payment(status)) is only


@pytest.mark.parametrize(
    "history",
    [[payment(currency="eur")], [payment()], [payment(), payment("refunded")]],
    ids=["needs_review", "paid", "refunded"],
)
def test_a_doubt_leaves_alone_what_is_decided(history: list[Transaction]) -> None:
    reached = after(history, session())
    for row in (*history, payment(id="66")):
        assert question(reached, row) is reached


@pytest.mark.parametrize("certain", [payment(id="41"), payment(id="42")], ids=["the same", "another"])
def test_after_a_doubt_a_certain_payment_counts_as_if_there_had_been_none(certain: Transaction) -> None:
    doubted = question(session(), payment(id="41"))
    assert after([certain], doubted) == replace(after([certain], session()), version=3)
    too_little = replace(certain, fiat_amount=Decimal(1))
    assert after([too_little], doubted) == replace(after([too_little], session()), version=3)


def test_a_doubted_payment_owns_no_session() -> None:
    early = session(price="1.00")
    late = session(id="cs_2", created_at=MADE + timedelta(hours=1))
    invented = payment(id="41", created_at=MADE)
    assert match([late, early], invented) is early
    early = question(early, invented)
    genuine = payment(id="41", created_at=MADE + timedelta(hours=1))
    assert match([late, early], genuine) is None, "ambiguous, as it would be without the doubt"
    assert match([early], genuine) is early


# Which session a payment is for.


def test_one_payment_never_pays_a_second_session_of_its_order() -> None:
    first = after([payment(id="41")], session())
    second = session(id="cs_2")
    assert match([first, second], payment(id="41")) is first
    assert match([first, second], payment(id="42")) is second
    assert match([first], payment(id="42")) is first


def test_a_payment_is_for_the_one_session_there_is() -> None:
    only = session()
    assert match([only], payment()) is only
    assert match([], payment()) is None


@pytest.mark.parametrize("other", [{"price": "49.98"}, {"currency": "eur"}], ids=["price", "currency"])
def test_between_sessions_that_ask_for_different_things_nobody_can_tell(other: dict[str, str]) -> None:
    assert match([session(id="cs_1"), session(id="cs_2", **other)], payment()) is None


@given(order=st.randoms())
def test_of_sessions_that_ask_for_the_same_the_newest_is_meant(order) -> None:
    later = MADE + timedelta(seconds=1)
    sessions = [
        session(id="cs_3", price="50"),
        session(id="cs_1", price="50.00", created_at=later),
        session(id="cs_2", price="50.0", created_at=later),
    ]
    order.shuffle(sessions)
    assert match(sessions, payment(created_at=later)).id == "cs_2"


@pytest.mark.parametrize(
    ("older_by", "is_meant"),
    [(timedelta(0), True), (CLOCK_TOLERANCE, True), (CLOCK_TOLERANCE + timedelta(seconds=1), False)],
)
def test_a_session_made_after_the_payment_is_not_meant(older_by: timedelta, is_meant: bool) -> None:
    only = session()
    assert match([only], payment(created_at=MADE - older_by)) is (only if is_meant else None)
    earlier = session(id="cs_0", price="1.00", created_at=MADE - timedelta(hours=1))
    found = match([earlier, only], payment(created_at=MADE - older_by))
    assert found is (None if is_meant else earlier)


def test_a_payment_without_a_time_can_be_for_any_session() -> None:
    only = session()
    assert match([only], payment(created_at=None)) is only
