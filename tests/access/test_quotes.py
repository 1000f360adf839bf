"""A quote is good exactly as the shop's server signed it, for five minutes (interface §3.5)."""

import hashlib
import hmac
import unicodedata
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import SecretStr

from gateway.access.quotes import Quote, sign, verify
from gateway.errors import InvalidQuote, QuoteExpired

NOW = 1_775_811_600
SECRET = SecretStr("CANARY-quote-secret-of-the-storefront")
OLDER = SecretStr("CANARY-quote-secret-that-is-replaced-")
OTHERS = SecretStr("CANARY-quote-secret-of-the-market-pl.")
GOOD = Quote("storefront", "49.99", "usd", "ORD-1", NOW)

TEXTS = st.text(st.characters(exclude_characters="|", exclude_categories=["Cs"]), max_size=40)
TIMES = st.integers(0, 99_999_999_999)
QUOTES = st.builds(Quote, client_id=TEXTS, price=TEXTS, currency=TEXTS, order_id=TEXTS, timestamp=TIMES)
SECRETS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=80).map(SecretStr)


def check(quote: Quote, signature: str, *secrets: SecretStr, now: float = NOW) -> None:
    verify(quote, signature, secrets or [SECRET], now=now)


def test_the_text_is_the_one_of_the_interface() -> None:
    assert GOOD.text == f"qpg-quote-v1|storefront|49.99|usd|ORD-1|{NOW}"


@given(QUOTES, SECRETS)
def test_a_signature_is_the_hmac_of_the_text_and_is_good(quote: Quote, secret: SecretStr) -> None:
    values = ("qpg-quote-v1", quote.client_id, quote.price, quote.currency, quote.order_id, str(quote.timestamp))
    key, message = secret.get_secret_value().encode(), "|".join(values).encode()
    assert sign(quote, secret) == hmac.new(key, message, hashlib.sha256).hexdigest()
    check(quote, sign(quote, secret), secret, now=quote.timestamp)


@given(QUOTES, st.sampled_from(["client_id", "price", "currency", "order_id", "timestamp"]), st.data())
def test_any_change_of_any_field_is_refused(quote: Quote, field: str, data: st.DataObject) -> None:
    other = data.draw(TIMES if field == "timestamp" else TEXTS)
    assume(other != getattr(quote, field))
    changed = replace(quote, **{field: other})
    with pytest.raises(InvalidQuote):
        check(changed, sign(quote, SECRET), now=changed.timestamp)


@given(QUOTES, QUOTES)
def test_no_two_quotes_share_a_text(one: Quote, other: Quote) -> None:
    assert (one.text == other.text) == (one == other)


@given(st.text(max_size=80))
def test_any_other_signature_is_refused(signature: str) -> None:
    assume(signature != sign(GOOD, SECRET))
    with pytest.raises(InvalidQuote):
        check(GOOD, signature)


@given(st.integers(0, 63), st.characters())
def test_a_signature_with_one_other_character_is_refused(place: int, character: str) -> None:
    right = sign(GOOD, SECRET)
    assume(character != right[place])
    with pytest.raises(InvalidQuote):
        check(GOOD, right[:place] + character + right[place + 1 :])


RIGHT = sign(GOOD, SECRET)


@pytest.mark.parametrize(
    "signature",
    [
        "", RIGHT.upper(), f" {RIGHT}", f"{RIGHT} ", f"{RIGHT}\n", RIGHT[:-1], RIGHT + "0", f"0x{RIGHT}", "0" * 64,
        RIGHT.translate(str.maketrans("0123456789", "０１２３４５６７８９")), "é" * 64, "\ud800", "None",
        sign(GOOD, OTHERS), sign(replace(GOOD, client_id="market"), OTHERS), sign(replace(GOOD, client_id="market"), SECRET),
        hmac.new(SECRET.get_secret_value().encode(), b"49.99|usd|ORD-1|%d" % NOW, hashlib.sha256).hexdigest(),
        hmac.new(b"", GOOD.text.encode(), hashlib.sha256).hexdigest(),
    ],
)  # fmt: skip
def test_a_signature_of_another_form_secret_client_or_text_is_refused(signature: str) -> None:
    with pytest.raises(InvalidQuote):
        check(GOOD, signature)


@pytest.mark.parametrize(
    "changed",
    [
        {"price": "0.01"}, {"price": "49.990"}, {"price": "049.99"}, {"price": "４９.９９"}, {"currency": "eur"},
        {"currency": "USD"}, {"order_id": "ORD-2"}, {"order_id": "ORD-1 "}, {"order_id": "ord-1"}, {"order_id": ""},
        {"client_id": "market"}, {"timestamp": NOW + 1}, {"order_id": "ORD-\ud800"},
    ],
)  # fmt: skip
def test_a_quote_is_for_nothing_else(changed: dict[str, str | int]) -> None:
    with pytest.raises(InvalidQuote):
        check(replace(GOOD, **changed), RIGHT)


def test_an_order_id_in_another_unicode_form_is_another_order() -> None:
    composed, decomposed = (replace(GOOD, order_id=unicodedata.normalize(form, "Café № 1")) for form in ("NFC", "NFD"))
    check(decomposed, sign(decomposed, SECRET))
    with pytest.raises(InvalidQuote):
        check(decomposed, sign(composed, SECRET))


@pytest.mark.parametrize("field", ["client_id", "price", "currency", "order_id"])
def test_a_text_with_the_separator_in_it_cannot_be_quoted(field: str) -> None:
    with pytest.raises(ValueError, match="separator"):
        replace(GOOD, **{field: "1|usd"})


@pytest.mark.parametrize("ago", [0, 1, 299, 300, 300.0, -1, -300])
def test_five_minutes_either_way_are_good(ago: float) -> None:
    check(GOOD, RIGHT, now=NOW + ago)


@pytest.mark.parametrize("ago", [300.001, 301, 86_400, -300.5, -301, -86_400])
def test_beyond_them_a_quote_is_expired_or_from_the_future(ago: float) -> None:
    with pytest.raises(QuoteExpired):
        check(GOOD, RIGHT, now=NOW + ago)


def test_the_signature_is_checked_before_the_time() -> None:
    with pytest.raises(InvalidQuote):
        check(GOOD, "0" * 64, now=NOW + 301)


def test_milliseconds_are_from_the_future() -> None:
    late = replace(GOOD, timestamp=NOW * 1000)
    with pytest.raises(QuoteExpired):
        check(late, sign(late, SECRET))


def test_during_a_rotation_either_secret_is_good_and_no_third() -> None:
    for secret in (SECRET, OLDER):
        check(GOOD, sign(GOOD, secret), SECRET, OLDER)
    for secrets in ([OTHERS], [OTHERS, OLDER]):
        with pytest.raises(InvalidQuote):
            check(GOOD, RIGHT, *secrets)


def test_without_a_secret_nothing_is_good() -> None:
    with pytest.raises(InvalidQuote):
        verify(GOOD, hmac.new(b"", GOOD.text.encode(), hashlib.sha256).hexdigest(), [], now=NOW)


def test_a_refusal_repeats_neither_secret_nor_signature() -> None:
    with pytest.raises(InvalidQuote) as refused:
        check(GOOD, "f" * 64)
    told = f"{refused.value!r} {refused.value} {refused.value.detail}"
    assert "CANARY" not in told
    assert "ffff" not in told
    assert RIGHT not in told
