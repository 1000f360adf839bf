"""Honest answers in shapes that other versions of the upstream may give them (contract §6, §9, §10)."""

import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal

from gateway.sandbox.simulator.envelope import Envelope
from gateway.sandbox.simulator.php import Json, RawJson

_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?", re.ASCII)


def with_payment_url(envelope: Envelope, url: str | None) -> Envelope:
    """Put another address into a new session, or none; leave other answers alone."""
    response = envelope.get("response")
    if not isinstance(response, Mapping) or "payment_url" not in response:
        return envelope
    kept = {name: value for name, value in response.items() if name != "payment_url"}
    return {**envelope, "response": kept if url is None else {**kept, "payment_url": url}}


def numbers_for_strings(envelope: Envelope) -> Envelope:
    """Write every numeric text of the response as a number with the same digits."""
    return _with_each_number(envelope, RawJson)


def exponent_numbers(envelope: Envelope) -> Envelope:
    """Write every numeric text of the response as a number with an exponent."""
    return _with_each_number(envelope, lambda text: RawJson(f"{Decimal(text):E}"))


def nested_balances(envelope: Envelope) -> Envelope:
    """Nest flat balances as Boxcoin does, with numbers, names and a total (contract §6.6)."""
    flat = envelope.get("response")
    if not isinstance(flat, Mapping) or not all(isinstance(coin, Mapping) for coin in flat.values()):
        return envelope
    coins = {code: coin for code, coin in flat.items() if isinstance(coin, Mapping)}
    balances = {
        code: {"amount": RawJson(coin["amount"]), "fiat": RawJson(coin["fiat"]), "name": code.upper()}
        for code, coin in coins.items()
    }
    total = sum((Decimal(str(coin["fiat"])) for coin in coins.values()), Decimal(0))
    nested: Envelope = {
        "balances": balances,
        "total": RawJson(format(total, "f")),
        "currency": "USD",
        "token_images": {},
    }
    return {**envelope, "response": nested}


def inverse_rate(envelope: Envelope) -> Envelope:
    """Turn a rate round, as Boxcoin has it: a number of coins per fiat unit (contract §6.7)."""
    rate = envelope.get("response")
    if not isinstance(rate, str) or not _NUMBER.fullmatch(rate):
        return envelope
    return {**envelope, "response": float(1 / Decimal(rate))}


def _with_each_number(envelope: Envelope, rewritten: Callable[[str], Json]) -> Envelope:
    if "response" not in envelope:
        return envelope
    return {**envelope, "response": _each_number(envelope["response"], rewritten)}


def _each_number(value: Json, rewritten: Callable[[str], Json]) -> Json:
    if isinstance(value, str):
        return rewritten(value) if _NUMBER.fullmatch(value) else value
    if isinstance(value, Mapping):
        return {name: _each_number(member, rewritten) for name, member in value.items()}
    if isinstance(value, Sequence):
        return [_each_number(item, rewritten) for item in value]
    return value
