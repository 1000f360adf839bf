"""Each reader takes the shapes of contract §9 and §10, and refuses everything else as an error of upstream."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import UpstreamError, UpstreamInvalidResponse, UpstreamRejected
from gateway.quantapay import readers

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.decimals(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)

APRIL_ROW = {
    "id": "42", "biz_id": "QP-20260410-0A1B2", "title": "", "description": "", "from": "0xaa", "to": "0xbb",
    "hash": "0xcc", "amount": "0.0125", "amount_fiat": "25.00000000", "cryptocurrency": "ETH", "currency": "USD",
    "external_reference": "A-1", "creation_time": "2026-04-10 09:00:00", "status": "C", "webhook": "1", "vat": "0",
    "billing": "", "checkout_id": None, "type": "2",
}  # fmt: skip
"""Contract §8, the form of 8 April."""


@pytest.mark.parametrize(
    "answer",
    [
        {"eth": {"amount": "2.5", "fiat": "9250.00"}, "BTC": {"amount": "0.10", "fiat": "6485.02"}},
        {
            "balances": {
                "btc": {"amount": Decimal("0.10"), "fiat": Decimal("6485.02"), "name": "Bitcoin"},
                "eth": {"amount": Decimal("2.5"), "fiat": Decimal("9250.00")},
            },
            "total": 2,
        },
    ],
    ids=["flat", "nested"],
)
def test_balances_are_read_flat_and_nested_and_sorted_by_code(answer):
    found = readers.balances(answer)
    assert [(b.cryptocurrency, str(b.amount), str(b.fiat_value)) for b in found.balances] == [
        ("btc", "0.10", "6485.02"),
        ("eth", "2.5", "9250.00"),
    ]
    assert found.currency is None


def test_nested_balances_name_their_currency():
    assert readers.balances({"balances": [], "currency": "USD"}).currency == "usd"


def test_no_wallets_is_an_empty_list_in_php():
    assert readers.balances([]).balances == ()


@pytest.mark.parametrize("token", ["150.00", Decimal("150.00"), "-3", 150, "1.5E+2"])
def test_credits_may_be_text_number_or_negative(token):
    found = readers.credit_balance({"credit_balance": token, "credit_currency": "USD"})
    assert found.amount == Decimal(str(token))
    assert found.currency == "usd"


@pytest.mark.parametrize("rate", ["0", "-1", 0, Decimal("-0.5"), "0.000"])
def test_a_rate_that_is_not_above_zero_is_no_rate(rate):
    with pytest.raises(UpstreamInvalidResponse):
        readers.exchange_rate(rate)


def test_a_rate_keeps_its_digits():
    assert str(readers.exchange_rate("64850.250")) == "64850.250"


def test_a_text_where_a_rate_belongs_is_a_refusal():
    with pytest.raises(UpstreamRejected) as caught:
        readers.exchange_rate("QuantaPay error [get_exchange_rates]: no source answers")
    assert caught.value.upstream_code is None


@pytest.mark.parametrize("answer", [True, None, "", [], {}, "nan", "1,234.50", "９", "0x10", "1_000", " 1"])
def test_what_is_no_number_is_no_rate(answer):
    with pytest.raises(UpstreamError):
        readers.exchange_rate(answer)


@pytest.mark.parametrize("answer", [{}, {"payment_url": None}, {"payment_url": ""}, {"payment_url": ["x"]}, [], None])
def test_a_session_without_a_page_is_invalid(answer):
    with pytest.raises(UpstreamInvalidResponse):
        readers.checkout_page(answer)


@pytest.mark.parametrize("answer", [False, None, "", []])
def test_every_way_to_say_no_such_row_is_none(answer):
    assert readers.transaction(answer) is None


def test_a_row_of_april_is_read_whole():
    row = readers.transaction(APRIL_ROW)
    assert row is not None
    assert (row.id, row.quantapay_reference, row.order_id) == ("42", "QP-20260410-0A1B2", "A-1")
    assert (row.amount, row.cryptocurrency) == (Decimal("0.0125"), "eth")
    assert (str(row.fiat_amount), row.currency) == ("25.00000000", "usd")
    assert (row.status, row.raw_status) == ("completed", "C")
    assert row.created_at == datetime(2026, 4, 10, 9, tzinfo=UTC)
    assert row.title is None
    assert row.description is None


def test_a_row_of_march_lacks_what_came_later():
    march = {k: v for k, v in APRIL_ROW.items() if k not in ("biz_id", "type")} | {"external_reference": ""}
    row = readers.transaction(march)
    assert row is not None
    assert row.quantapay_reference is None
    assert row.order_id is None


def test_numbers_for_texts_and_a_list_for_a_description_are_taken():
    row = readers.transaction(APRIL_ROW | {"id": 42, "amount": Decimal("0.0125"), "description": ["short", "", 5]})
    assert row is not None
    assert (row.id, row.description) == ("42", "short\n5")


@pytest.mark.parametrize(
    ("code", "status"), [("P", "pending"), ("X", "underpaid"), ("R", "refunded"), ("Z", "unknown")]
)
def test_statuses_are_named_and_new_ones_kept_raw(code, status):
    row = readers.transaction(APRIL_ROW | {"status": code})
    assert row is not None
    assert (row.status, row.raw_status) == (status, code)


@pytest.mark.parametrize(
    "fault",
    [{"id": ""}, {"id": None}, {"id": True}, {"id": {"a": 1}}, {"id": []}],
)
def test_a_row_that_makes_no_sense_is_invalid(fault):
    with pytest.raises(UpstreamInvalidResponse):
        readers.transactions([APRIL_ROW | fault])


@pytest.mark.parametrize("text", [{"a": 1}, True, [[1]], [["a"], {}]])
def test_a_text_that_makes_no_sense_is_missing_and_hides_no_other_row(text):
    odd, good = readers.transactions([APRIL_ROW | {"title": text, "description": text}, APRIL_ROW])
    assert (odd.title, odd.description, odd.id) == (None, None, good.id)


@pytest.mark.parametrize("amount", ["lots", ".5", "49,99", "1e400", "", None, True, []])
def test_an_amount_that_makes_no_sense_is_missing_and_hides_no_other_row(amount):
    odd, good = readers.transactions([APRIL_ROW | {"amount": amount, "amount_fiat": amount}, APRIL_ROW])
    assert (odd.amount, odd.fiat_amount) == (None, None)
    assert good.fiat_amount is not None


def test_an_unreadable_time_is_no_time():
    row = readers.transaction(APRIL_ROW | {"creation_time": "0000-00-00 00:00:00"})
    assert row is not None
    assert row.created_at is None


@pytest.mark.parametrize("answer", [None, False, {}, 7, ""])
def test_a_page_of_rows_is_a_list(answer):
    with pytest.raises(UpstreamInvalidResponse):
        readers.transactions(answer)


@pytest.mark.parametrize(
    "reader",
    [
        readers.balances, readers.credit_balance, readers.exchange_rate, readers.checkout_page,
        readers.transaction, readers.transactions,
    ],
)  # fmt: skip
@given(answer=JSON)
def test_any_answer_gives_a_value_or_an_error_of_upstream(reader, answer):
    try:
        reader(answer)
    except UpstreamError as error:
        assert error.status in (502, 501, 503)  # noqa: PT017 - both ways are right, nothing else is
