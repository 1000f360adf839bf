"""Every way the simulator can misbehave, by name (contract §2, §4, §10).

A scenario takes the honest answer as something it may ask for. Those that refuse never ask, so nothing happens in
the account. Those that spoil the answer do ask, so the work is done although the client may never learn of it.
Error codes that begin with `simulated-` are made up: the contract has no code for these cases.
"""

import gzip
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from gateway.sandbox.simulator import reshaping
from gateway.sandbox.simulator.answers import Answer, Manner, json_answer
from gateway.sandbox.simulator.envelope import Envelope, bare_failure, error, error_in_response, success
from gateway.sandbox.simulator.functions import EXPIRED, INVALID_SIGNATURE
from gateway.sandbox.simulator.php import Json, RawJson

HonestAnswer: TypeAlias = Callable[[], Envelope]
Misbehave: TypeAlias = Callable[[HonestAnswer], Answer]

OVERSIZE = 5 * 1024 * 1024
"""Bytes: over 4 MiB."""
DEPTH = 100_000
"""Levels of nesting, more than any parser's stack."""

_NOTICE = b"<br />\n<b>Notice</b>:  Undefined index: simulated in <b>/srv/functions.php</b> on line <b>42</b><br />\n"
_FORGED = b'{"success":true,"response":{"payment_url":"https:\\/\\/forged.invalid\\/pay.php","session_id":"cs_forged"}}'
_LATIN_1 = b'{"success":false,"error_code":"simulated-latin-1","message":"Cl\xe9 refus\xe9e"}'


@dataclass(frozen=True, slots=True)
class Scenario:
    """One misbehaviour and a line on what it looks like."""

    summary: str
    misbehave: Misbehave
    seconds: float = 0.0
    """The delay of the answer unless the switch says another."""


def _instead(answer: Answer) -> Misbehave:
    return lambda _honest: answer


def _refuse(document: Json) -> Misbehave:
    return _instead(json_answer(document))


def _page(status: int, title: str, **headers: str) -> Misbehave:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    body = f"<!DOCTYPE html>\n<html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>\n"
    return _instead(Answer(status=status, headers={"content-type": "text/html", **names}, body=body.encode()))


def _redirect(status: int) -> Misbehave:
    return _page(status, "Moved", location="https://elsewhere.invalid/login")


def _spoil(spoilt: Callable[[bytes], bytes], *, encoding: str | None = None, manner: Manner = "whole") -> Misbehave:
    """Do the work, then change the bytes of its answer."""

    def misbehave(honest: HonestAnswer) -> Answer:
        answer = json_answer(honest())
        encoded = {} if encoding is None else {"content-encoding": encoding}
        return replace(answer, body=spoilt(answer.body), headers={**answer.headers, **encoded}, manner=manner)

    return misbehave


def _reshape(reshaped: Callable[[Envelope], Json]) -> Misbehave:
    """Do the work, then change the document of its answer."""
    return lambda honest: json_answer(reshaped(honest()))


def _send(manner: Manner) -> Misbehave:
    """Do the work, then send its answer in another manner."""
    return lambda honest: replace(json_answer(honest()), manner=manner)


def _with_payment_url(url: str | None) -> Misbehave:
    return _reshape(lambda envelope: reshaping.with_payment_url(envelope, url))


def _padded(body: bytes) -> bytes:
    return body.ljust(OVERSIZE)


_THROTTLED = error("simulated-throttled", "Too many requests, slow down")
_NESTED = success(RawJson("[" * DEPTH + "]" * DEPTH))

_PAGES: Mapping[str, Scenario] = {
    "html-error": Scenario("500 with an HTML page", _page(500, "Internal Server Error")),
    "html-200": Scenario("200 with an HTML page", _page(200, "Maintenance")),
    "challenge-403": Scenario("403 with a proxy's challenge page", _page(403, "Just a moment...", server="cloudflare")),
    "empty": Scenario("200 without a body", _instead(Answer())),
    "empty-500": Scenario("500 without a body: a PHP fatal", _instead(Answer(status=500))),
    "throttled-429": Scenario("429 HTML with Retry-After", _page(429, "Too Many Requests", retry_after="7")),
    "throttled-503": Scenario("503 HTML, no Retry-After", _page(503, "Service Temporarily Unavailable")),
    "throttled-200": Scenario("200 with a made-up JSON error", _refuse(_THROTTLED)),
    "redirect": Scenario("302 to another host", _redirect(302)),
    "redirect-307": Scenario("307 to another host, which asks to send the form again", _redirect(307)),
    "garbage": Scenario("bytes that are nothing", _instead(Answer(body=bytes(range(256))))),
    "latin-1": Scenario("a JSON error that is not UTF-8", _instead(Answer(body=_LATIN_1))),
    "deep-nesting": Scenario(f"{DEPTH:,} lists in each other", _refuse(_NESTED)),
}

_REFUSALS: Mapping[str, Scenario] = {
    "invalid-api-key": Scenario("the key is refused", _refuse(error("invalid-api-key", "Invalid API key"))),
    "function-missing": Scenario("no such function", _refuse(error("function-not-found", "Function not found"))),
    "missing-argument": Scenario(
        "a parameter is missing", _refuse(error("missing-argument", "Missing argument: other"))
    ),
    "expired": Scenario("the timestamp is too old or new", _refuse(error(EXPIRED, "Request expired"))),
    "bad-signature": Scenario("the signature is wrong", _refuse(error(INVALID_SIGNATURE, "Invalid signature"))),
    "unknown-slug": Scenario("a code nobody knows", _refuse(error("simulated-unknown-reason", "Not today"))),
    "hostile-slug": Scenario("a code that is no slug", _refuse(error('<script src="//a.invalid">\r\nX: y', "No"))),
    "500-json": Scenario(
        "500 with a JSON error",
        _instead(replace(json_answer(error("simulated-failure", "Something failed")), status=500)),
    ),
    "success-false-bare": Scenario("`success: false` and nothing else", _refuse({"success": False})),
    "success-false-text-in-response": Scenario("the reason in `response`", _refuse(bare_failure("Not allowed"))),
    "success-with-error-text": Scenario("`success: true` with a reason", _refuse(error_in_response("it failed"))),
    "success-with-error-list": Scenario(
        '`success: true` with `["error", …]`', _refuse(success(["error", "no explorer"]))
    ),
    "success-with-error-object": Scenario(
        "`success: true` around an error", _refuse(success(error("simulated-inner-failure", "It failed")))
    ),
    "success-with-false": Scenario("`success: true` with `false`", _refuse(success(response=False))),
    "success-with-empty-string": Scenario('`success: true` with `""`', _refuse(success(""))),
    "success-with-null": Scenario("`success: true` with `null`", _refuse(success(None))),
    "bare-string": Scenario("`success: true` with a text that says nothing", _refuse(success("unexpected"))),
    "empty-map-as-list": Scenario("`[]`, as PHP writes an empty map", _refuse(success([]))),
    "zero-rate": Scenario("a rate of 0", _refuse(success(0))),
    "absurd-exponent": Scenario("a number with a billion digits", _refuse(success(RawJson("1e999999999")))),
    "not-a-number": Scenario("`NaN`, which is not JSON", _refuse(success(RawJson("NaN")))),
}

_SPOILT: Mapping[str, Scenario] = {
    "php-notice-before": Scenario("a PHP notice before the JSON", _spoil(lambda body: _NOTICE + body)),
    "php-notice-after": Scenario("a PHP notice after the JSON", _spoil(lambda body: body + b"\n" + _NOTICE)),
    "duplicate-envelope": Scenario(
        "a notice that holds a forged answer before the real one",
        _spoil(lambda body: _NOTICE.replace(b"simulated in", _FORGED + b" in") + body),
    ),
    "bom": Scenario(
        "a byte order mark and white space around", _spoil(lambda body: b"\xef\xbb\xbf\r\n " + body + b"\n")
    ),
    "truncated-json": Scenario("half of the JSON, as if it were whole", _spoil(lambda body: body[: len(body) // 2])),
    "huge": Scenario("over 4 MiB", _spoil(_padded)),
    "huge-chunked": Scenario("over 4 MiB, length not announced", _spoil(_padded, manner="chunked")),
    "gzip": Scenario("compressed", _spoil(gzip.compress, encoding="gzip")),
    "gzip-bomb": Scenario(
        "small, over 4 MiB once uncompressed", _spoil(lambda body: gzip.compress(_padded(body)), encoding="gzip")
    ),
}

_RESHAPED: Mapping[str, Scenario] = {
    "no-envelope": Scenario("the response without its envelope", _reshape(lambda envelope: envelope.get("response"))),
    "success-as-string": Scenario('`success` is `"true"`', _reshape(lambda envelope: {**envelope, "success": "true"})),
    "success-as-number": Scenario("`success` is `1`", _reshape(lambda envelope: {**envelope, "success": 1})),
    "numbers-for-strings": Scenario("numbers where the docs have texts", _reshape(reshaping.numbers_for_strings)),
    "exponent-numbers": Scenario("numbers such as `6.485025E+4`", _reshape(reshaping.exponent_numbers)),
    "nested-balances": Scenario("balances as Boxcoin nests them", _reshape(reshaping.nested_balances)),
    "inverse-rate": Scenario("coins per fiat unit, as Boxcoin has it", _reshape(reshaping.inverse_rate)),
    "foreign-payment-url": Scenario(
        "a pay page elsewhere", _with_payment_url("https://pay.invalid/pay.php?checkout_id=1")
    ),
    "http-payment-url": Scenario("a pay page without TLS", _with_payment_url("http://cloud.quantapay.app/pay.php")),
    "userinfo-payment-url": Scenario(
        "a pay page whose host only looks right",
        _with_payment_url("https://cloud.quantapay.app@pay.invalid/pay.php"),
    ),
    "no-payment-url": Scenario("a session without its page", _with_payment_url(None)),
}

_SENT: Mapping[str, Scenario] = {
    "slow": Scenario("late, by `seconds`", _send("whole"), seconds=5.0),
    "trickle": Scenario("byte by byte, `seconds` apart", _send("trickle"), seconds=1.0),
    "hang": Scenario("never, until the client leaves", _send("hang")),
    "cut-off": Scenario("half of the announced length, then the end", _send("cut-off")),
    "close": Scenario("the connection closes without an answer", _send("close")),
    "reset": Scenario("the connection is reset without an answer", _send("reset")),
}

SCENARIOS: Mapping[str, Scenario] = {**_PAGES, **_REFUSALS, **_SPOILT, **_RESHAPED, **_SENT}
