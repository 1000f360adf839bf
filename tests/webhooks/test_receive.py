"""Webhooks read: both dated bodies, whatever types their values have, and nothing that is not a payment."""

import json
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from gateway.errors import MalformedRequest, UpstreamRejected, ValidationFailed, WebhooksNotConfigured
from gateway.http.body import parse
from gateway.quantapay.models import Transaction
from gateway.telemetry.metrics import Metrics
from gateway.webhooks.receive import Receiver, exact, payment_of

MARCH = (
    '{"key":"whsec","transaction":{"id":"41","title":"Order A-1","description":"","from":"0xaa","to":"0xbb",'
    '"hash":"0xcc","amount":"0.0125","amount_fiat":"25.00","cryptocurrency":"eth","currency":"usd",'
    '"external_reference":"","creation_time":"2026-03-10 09:00:00","status":"C","webhook":"1","vat":"","billing":"",'
    '"checkout_id":"cs-cs_0f1e2d3c4b5a69788796"}}'
)
APRIL = (
    '{"key":"whsec","transaction":{"id":"42","biz_id":"QP-20260410-0A1B2","title":"","description":"","from":"0xaa",'
    '"to":"0xbb","hash":"0xcc","amount":"0.0125","amount_fiat":"25.00000000","cryptocurrency":"eth","currency":"usd",'
    '"external_reference":"A-1","creation_time":"2026-04-10 09:00:00","status":"C","webhook":"1","vat":"0",'
    '"billing":"","checkout_id":null,"type":"2"}}'
)


def read(text: str) -> Transaction:
    return payment_of(parse(text.encode(), parse_float=exact))


def read_row(row: str) -> Transaction:
    return read(f'{{"transaction": {row}}}')


def test_the_form_of_march_is_read() -> None:
    assert read(MARCH) == Transaction(
        id="41",
        quantapay_reference=None,
        title="Order A-1",
        description=None,
        from_address="0xaa",
        to_address="0xbb",
        hash="0xcc",
        amount=Decimal("0.0125"),
        cryptocurrency="eth",
        fiat_amount=Decimal("25.00"),
        currency="usd",
        order_id=None,
        status="completed",
        raw_status="C",
        created_at=datetime(2026, 3, 10, 9, tzinfo=UTC),
    )


def test_the_form_of_april_is_read() -> None:
    payment = read(APRIL)
    assert (payment.id, payment.quantapay_reference, payment.title) == ("42", "QP-20260410-0A1B2", None)
    assert (payment.order_id, str(payment.fiat_amount)) == ("A-1", "25.00000000")


def test_numbers_keep_every_digit_whether_text_or_not() -> None:
    digits = "49.990000000000000000000000000000000000000001"
    texts = read_row(f'{{"id": "7", "amount_fiat": "{digits}", "amount": "1e-8", "status": "C"}}')
    numbers = read_row(f'{{"id": 7, "amount_fiat": {digits}, "amount": 1e-8, "status": "C"}}')
    assert texts == numbers
    assert str(numbers.fiat_amount) == digits
    assert numbers.amount == Decimal("0.00000001")


def test_what_the_future_adds_and_what_is_missing_are_no_matter() -> None:
    payment = read('{"version": 3, "transaction": {"id": 7, "status": "C", "lines": [{"a": [{}]}], "tip": 1.5}}')
    assert (payment.id, payment.status, payment.fiat_amount) == ("7", "completed", None)


@pytest.mark.parametrize(
    ("status", "meaning"),
    [('"C"', "completed"), ('"X"', "underpaid"), ('"R"', "refunded"), ('"P"', "pending"), ('"c"', "unknown"),
     ('"Q"', "unknown"), ("null", "unknown"), ("7", "unknown"), ('""', "unknown")],
)  # fmt: skip
def test_only_statuses_known_by_their_letter_mean_something(status: str, meaning: str) -> None:
    assert read_row(f'{{"id": "7", "status": {status}}}').status == meaning


@pytest.mark.parametrize(
    ("text", "pointer"),
    [
        ("{}", "#/transaction"),
        ('{"transaction": null}', "#/transaction"),
        ('{"transaction": []}', "#/transaction"),
        ('{"transaction": "secret"}', "#/transaction"),
        ('{"transaction": {}}', "#/transaction/id"),
        ('{"transaction": {"id": null}}', "#/transaction/id"),
        ('{"transaction": {"id": ""}}', "#/transaction/id"),
        ('{"transaction": {"id": false}}', "#/transaction/id"),
        ('{"transaction": {"id": []}}', "#/transaction/id"),
        ('{"transaction": {"id": true}}', "#/transaction/id"),
        ('{"transaction": {"id": {"a": "secret"}}}', "#/transaction/id"),
        (f'{{"transaction": {{"id": "{"7" * 65}"}}}}', "#/transaction/id"),
    ],
)
def test_what_is_no_payment_is_refused_and_not_repeated(text: str, pointer: str) -> None:
    with pytest.raises(ValidationFailed) as refused:
        read(text)
    assert [fault.pointer for fault in refused.value.faults] == [pointer]
    assert "secret" not in repr((refused.value.args, refused.value.detail, refused.value.faults))
    assert refused.value.__context__ is None


def test_odd_texts_are_left_out_and_long_ones_cut() -> None:
    payment = read(
        json.dumps(
            {
                "transaction": {
                    "id": "7",
                    "status": "C",
                    "title": {"a": 1},
                    "description": [["deep"]],
                    "from": True,
                    "external_reference": "x" * 60_000,
                }
            }
        )
    )
    assert (payment.title, payment.description, payment.from_address) == (None, None, None)
    assert payment.order_id == "x" * 256, "longer than any order id, so that it is not taken for one"


@pytest.mark.parametrize("number", ["1e99999999999999999999", "1" * 5000, "NaN", "-Infinity"])
def test_numbers_beyond_all_bounds_are_no_json_of_ours(number: str) -> None:
    with pytest.raises(MalformedRequest):
        read_row(f'{{"id": "7", "amount": {number}}}')


@pytest.mark.parametrize("number", ["1e999999", "1." + "0" * 9000, "1e-999999"])
def test_numbers_that_are_no_amounts_count_as_missing(number: str) -> None:
    assert read_row(f'{{"id": "7", "amount_fiat": {number}}}').fiat_amount is None


def test_halves_of_surrogate_pairs_are_replaced_and_whole_ones_kept() -> None:
    payment = read_row(r'{"id": "\ud800", "title": "a\udfffb", "external_reference": "\ud83d\ude00", "status": "C"}')
    assert (payment.id, payment.title, payment.order_id) == ("\ufffd", "a\ufffdb", "\U0001f600")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.decimals() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
fields = st.sampled_from([*json.loads(APRIL)["transaction"], "new"])


@given(
    document=st.dictionaries(
        st.sampled_from(["key", "transaction"]), json_values | st.dictionaries(fields, json_values)
    )
)
def test_any_document_is_a_payment_or_refused(document: dict[str, object]) -> None:
    try:
        payment = payment_of(document)
    except ValidationFailed:
        return
    repr(payment).encode()  # nothing in it that cannot be written


def receiver(*keys: str) -> Receiver:
    return Receiver([SecretStr(key) for key in keys], inbox=None, metrics=Metrics())


@pytest.mark.parametrize("key", ["first", "zweites ü"])
def test_either_secret_is_right(key: str) -> None:
    assert receiver("first", "zweites ü").admits({"key": key})


@pytest.mark.parametrize(
    "document",
    [{}, {"Key": "first"}, *({"key": key} for key in
     ("", "firs", "first ", "First", "firstt", None, 0, 1, True, Decimal(1), ["first"], {"first": "first"},
      "fi\u0433st", "\ud800", "first\ud800", "x" * 60_000))],
    ids=lambda document: repr(document)[:30],
)  # fmt: skip
def test_all_else_is_wrong(document: dict[str, object]) -> None:
    assert not receiver("first", "second").admits(document)


def test_without_a_secret_nothing_is_right() -> None:
    nobody = receiver()
    assert not nobody.admits({"key": ""})
    with pytest.raises(WebhooksNotConfigured):
        nobody.require_configured()
    receiver("first").require_configured()


def test_refusals_are_counted_by_their_kind() -> None:
    metrics = Metrics()
    counting = Receiver([], inbox=None, metrics=metrics)
    for error in (WebhooksNotConfigured(), MalformedRequest(), ValidationFailed(), UpstreamRejected()):
        counting.count_refusal(error)
    count = {
        outcome: metrics.registry.get_sample_value("gateway_webhooks_received_total", {"outcome": outcome})
        for outcome in ("not-configured", "malformed", "wrong-key")
    }
    assert count == {"not-configured": 1, "malformed": 3, "wrong-key": 0}
