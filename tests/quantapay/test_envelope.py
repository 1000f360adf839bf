"""Reading QuantaPay's answers (contract §2, §3, §4, §10)."""

import itertools
import json
import re
from decimal import Decimal
from email.utils import formatdate

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.errors import (
    FunctionNotSupported,
    GatewayError,
    UpstreamClockSkew,
    UpstreamCredentialsRejected,
    UpstreamInvalidResponse,
    UpstreamRefusal,
    UpstreamRejected,
    UpstreamThrottled,
)
from gateway.quantapay import envelope as envelope_module
from gateway.quantapay.envelope import (
    MissingUpstreamArgument,
    looks_like_error_text,
    read_envelope,
    refused_text,
)
from gateway.quantapay.reply import Reply

patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""On a fresh checkout the first text drawn waits for hypothesis to build its table of characters."""

NOW = 1_700_000_000.0
CANARY = "CanaryTextThatMustNotLeak"
NOTICE = "<br />\n<b>Notice</b>: Undefined index: x in <b>/var/www/api.php</b> on line <b>3</b><br />\n"


def read(body, *, status=200, signed=False, headers=()):
    if not isinstance(body, (bytes, str)):
        body = json.dumps(body)
    content = body if isinstance(body, bytes) else body.encode()
    return read_envelope(Reply(status, httpx.Headers(list(headers)), content), signed=signed, now=NOW)


def refusal(body, expected, **options):
    """Read what must be refused and return the error, which must be of exactly the type expected."""
    with pytest.raises(GatewayError) as refused:
        read(body, **options)
    assert type(refused.value) is expected
    return refused.value


def invalid(body, **options):
    refusal(body, UpstreamInvalidResponse, **options)


def error(code=None, message="text for people"):
    return {"success": False, "message": message} | ({} if code is None else {"error_code": code})


# What is answered


@pytest.mark.parametrize(
    "response",
    [{"a": "b"}, [], {}, [1], "64850.25", "", 0, 7, -7, True, False, None, "größe", {"a": [{"b": None}]}],
)
def test_a_success_gives_its_response_whatever_it_is(response):
    answer = read({"success": True, "response": response})

    assert answer == response
    assert type(answer) is type(response)


@pytest.mark.parametrize("yes", [True, "true", 1, "1"])
def test_success_may_be_said_in_phps_ways(yes):
    assert read({"success": yes, "response": "x"}) == "x"


@pytest.mark.parametrize("no", [False, "false", 0, "0"])
def test_failure_may_be_said_in_phps_ways(no):
    refusal({"success": no, "error_code": "some-code"}, UpstreamRejected)


@pytest.mark.parametrize("odd", ["yes", 2, -1, None, [], {}, "", "TRUE"])
def test_a_success_that_is_neither_yes_nor_no_is_invalid(odd):
    invalid({"success": odd, "response": "x", "error_code": "some-code"})


@pytest.mark.parametrize("odd", ["1.0", "0.0", "1e0", "NaN"])
def test_a_success_that_is_no_integer_is_invalid(odd):
    invalid(f'{{"success": {odd}, "response": "x"}}')


def test_a_success_without_a_response_is_invalid():
    invalid({"success": True})


def test_a_success_that_also_names_an_error_code_is_invalid():
    invalid({"success": True, "response": "x", "error_code": "some-code"})


@pytest.mark.parametrize("nothing", [None, "", False, 0])
def test_an_empty_error_code_beside_a_success_is_no_error(nothing):
    assert read({"success": True, "response": "x", "error_code": nothing}) == "x"


@pytest.mark.parametrize("body", ["", " ", "null", "false", '"text"', "5", "[]", "{}", '{"response": 1}', "<html>"])
def test_what_holds_no_envelope_is_invalid(body):
    invalid(body)


@pytest.mark.parametrize("body", ['[{"success":true,"response":1}]', '{"data":{"success":true,"response":1}}'])
def test_an_envelope_inside_other_json_is_none(body):
    invalid(body)


def test_a_body_cut_off_anywhere_is_invalid():
    whole = json.dumps({"success": True, "response": {"success": False, "error_code": "x", "list": [{"a": 1}]}})

    for length in range(len(whole)):
        invalid(whole[:length])


# Numbers


@pytest.mark.parametrize("token", ["150.00", "0.1", "1.0e-5", "1E2", "-3.50", "0.000000000000000000010", "9.99e64"])
def test_a_number_with_a_point_or_an_exponent_is_the_decimal_of_its_digits(token):
    answer = read(f'{{"success":true,"response":{token}}}')

    assert isinstance(answer, Decimal)
    assert answer.as_tuple() == Decimal(token).as_tuple()


@patient
@given(st.decimals(allow_nan=False, allow_infinity=False, min_value="-1e30", max_value="1e30", places=12))
def test_every_decimal_keeps_every_digit(number):
    assert str(read(f'{{"success":true,"response":{number:f}}}')) == str(number)


@pytest.mark.parametrize(
    "token",
    [
        "NaN",
        "Infinity",
        "-Infinity",
        "1e65",
        "1e-65",
        "0e65",
        "1e999999",
        "1e99999999999999999999",
        "0." + "1" * 4300,
    ],
)
def test_a_number_that_no_amount_can_be_is_invalid(token):
    invalid(f'{{"success":true,"response":{token}}}')


def test_a_long_integer_is_exact_and_one_over_pythons_limit_is_invalid():
    assert read(f'{{"success":true,"response":{"9" * 4300}}}') == int("9" * 4300)
    invalid(f'{{"success":true,"response":{"9" * 4301}}}')


# Noise


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("\ufeff", ""),
        ("\n\n\t \ufeff", "\r\n"),
        (NOTICE, NOTICE),
        ("<!DOCTYPE html><script>var a={b:1};f({})</script>", '<i data-x=\'{"token": "a"}\'></i>'),
        ("[24-Nov-2026] Warning: {", "}"),
        ('Warning: {"x', ""),
        ("[1, 2]", "[3]"),
        ('{"a": 1} {"a": 1, "a": 2}', '{"b": {"c": [{}]}}'),
    ],
)
def test_noise_around_the_envelope_is_ignored(before, after):
    assert read(before + '{"success":true,"response":"x"}' + after) == "x"


def test_noise_that_is_not_utf8_is_ignored_and_within_the_envelope_it_is_invalid():
    assert read(b'\xff\xe9 {"success":true,"response":"x"} \xff') == "x"
    invalid(b'{"success":true,"response":"\xff"}')
    invalid(b'{"success":true,"response":{"\xff":1}}')


def test_half_of_a_surrogate_pair_is_invalid_and_a_whole_one_is_its_character():
    invalid(r'{"success":true,"response":["\ud83d"]}')
    assert read(r'{"success":true,"response":"\ud83d\ude00"}') == "\U0001f600"


def test_the_same_envelope_twice_is_read_and_two_that_differ_are_believed_neither():
    envelope = '{"success":true,"response":"x"}'

    assert read(envelope + "\n" + envelope) == "x"
    invalid(f'Notice: {{"success":true,"response":"forged"}} in api.php\n{envelope}')
    invalid('{"success":true,"response":1}{"success":true,"response":true}')
    invalid('{"success":true,"response":1}{"error_code":"invalid-api-key"}')


def test_a_forged_envelope_in_a_notice_does_not_stand_in_for_one_that_was_cut_off():
    invalid('Notice: {"success":true,"response":"forged"} in api.php\n{"success":false,"error_co')


def test_envelopes_quoted_within_texts_are_not_envelopes():
    quoted = json.dumps({"success": True, "response": "forged"})

    assert read({"success": True, "response": {"title": quoted}}) == {"title": quoted}
    invalid(json.dumps({"title": quoted}))


@pytest.mark.parametrize(
    "body",
    [
        '{"success":false,"success":true,"response":1}',
        '{"success":true,"response":1,"response":2}',
        '{"success":true,"response":{"a":1,"a":2}}',
    ],
)
def test_a_name_twice_is_invalid(body):
    invalid(body)


def test_nesting_is_read_to_a_bound_and_invalid_beyond_it_however_deep():
    for depth, answer in [(29, True), (40, False), (900, False), (100_000, False)]:
        body = '{"success":true,"response":' + "[" * depth + "]" * depth + "}"
        if answer:
            assert read(body) is not None
        else:
            invalid(body)


MIB = 1024 * 1024


@pytest.mark.parametrize(
    "body",
    [
        '{"success":' * (MIB // 11),
        '{"x":' * (MIB // 5),
        '{"x":[' + "1," * (MIB // 2),
        '{"x":[' * 900 + "1," * (MIB // 2),
        '{"x"' * (MIB // 4),
        "{" * MIB,
        "{ " * (MIB // 2),
        "[" * MIB,
        '"' * MIB,
        '{"a":1}' * (MIB // 7),
        "".join(f'{{"success":{n}}}' for n in range(MIB // 17)),
        "{" + " " * (MIB - 1),
    ],
    ids=lambda body: body[:12],
)
def test_a_hostile_body_costs_a_bounded_number_of_passes_over_it(body, monkeypatch):
    """Counted, not timed: parses that succeed never overlap, and only a few fail."""
    spans, failures = [], []

    def counting(text, start):
        parsed = parse(text, start)
        if parsed is None:
            failures.append(start)
        else:
            spans.append((start, parsed[1]))
        return parsed

    parse = envelope_module._parse
    monkeypatch.setattr(envelope_module, "_parse", counting)

    invalid(body)

    assert len(failures) <= 10
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))


def test_a_ninth_stray_beginning_of_an_object_ends_the_search():
    envelope = '{"success":true,"response":"x"}'

    assert read('{"stray ' * 8 + envelope) == "x"
    invalid('{"stray ' * 9 + envelope)


# Errors by their code


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("function-not-found", FunctionNotSupported),
        ("invalid-api-key", UpstreamCredentialsRejected),
        ("api-key-not-found", UpstreamCredentialsRejected),
        ("missing-argument", MissingUpstreamArgument),
        ("missing-function-name", UpstreamRejected),
        ("made-up-code", UpstreamRejected),
        ("exchange-rate-error", UpstreamRejected),
        ("rate-limit", UpstreamThrottled),
        ("too-many-requests", UpstreamThrottled),
        ("request-expired", UpstreamClockSkew),
    ],
)
@pytest.mark.parametrize("status", [200, 400, 403, 500, 502])
def test_an_error_code_decides_under_any_status_that_can_carry_one(code, expected, status):
    assert refusal(error(code), expected, status=status).upstream_code == code


def test_an_error_code_without_success_is_an_error_and_an_empty_one_is_nothing():
    refusal({"error_code": "invalid-api-key"}, UpstreamCredentialsRejected)
    invalid({"error_code": "", "response": 1})
    invalid({"error_code": None, "response": 1})


@pytest.mark.parametrize("code", ["UPPER", "with blank", "a" * 65, "é", "code\n", 17, ["x"], {"a": 1}, True])
def test_an_error_code_that_is_no_slug_is_not_passed_on(code):
    assert refusal(error(code), UpstreamRejected).upstream_code is None


def test_a_failure_without_a_code_is_rejected_and_its_text_is_kept_to_ourselves():
    assert refusal({"success": False, "response": "Some text"}, UpstreamRejected).upstream_code is None
    assert refusal({"success": False}, UpstreamRejected).upstream_code is None
    assert refusal({"success": False, "response": "whitelist-invalid"}, UpstreamRejected).upstream_code == (
        "whitelist-invalid"
    )


@pytest.mark.parametrize("text", ["0a1b2c3d4e5f60718293a4b5c6d7e8f9", "deadbeef", "abcdef-0123", "x" * 40])
def test_a_text_that_could_be_a_key_is_not_taken_for_a_slug(text):
    assert refusal({"success": False, "response": text}, UpstreamRejected).upstream_code is None


@pytest.mark.parametrize(
    ("message", "argument"),
    [
        ("Missing argument: cryptocurrency_code", "cryptocurrency_code"),
        ("Error. Missing argument: meta[a-b].", "meta[a-b]"),
        ("Missing argument: " + "a" * 64, "a" * 64),
        ("Missing argument: " + "a" * 65, None),
        ("Missing argument: <script>", None),
        ("Argumento ausente", None),
        (None, None),
        (7, None),
    ],
)
def test_a_missing_argument_carries_its_name_if_it_is_one(message, argument):
    missing = refusal(error("missing-argument", message), MissingUpstreamArgument)

    assert missing.argument == argument
    assert isinstance(missing, UpstreamRejected)


# Errors by their words


@pytest.mark.parametrize("text", ["Request expired", "request-expired", "Error: REQUEST  expired."])
@pytest.mark.parametrize("signed", [True, False])
def test_request_expired_is_a_clock_fault_on_any_call(text, signed):
    refusal(error(message=text), UpstreamClockSkew, signed=signed)


def test_expired_alone_is_a_clock_fault_only_on_a_signed_call():
    refusal(error("timestamp-expired"), UpstreamClockSkew, signed=True)
    refusal(error("licence-expired"), UpstreamRejected, signed=False)


@pytest.mark.parametrize(
    "text",
    ["Rate limit", "rate_limit", "RateLimit hit", "Limit exceeded", "limit-reached", "Requests limit", "Throttled",
     "too many requests", "Too_Many_Requests"],
)  # fmt: skip
def test_throttling_is_known_by_its_words_and_says_how_long_to_wait(text):
    assert refusal(error(message=text), UpstreamThrottled).retry_after == 60
    assert refusal(error(message=text), UpstreamThrottled, headers=[("Retry-After", "7")]).retry_after == 7


@pytest.mark.parametrize("text", ["Exchange rate unavailable", "No rates", "delimiter", "limit", "separate limits"])
def test_a_rate_or_a_limit_alone_is_no_throttling(text):
    refusal(error(message=text), UpstreamRejected)


def test_a_documented_code_weighs_more_than_words():
    refusal(error("invalid-api-key", "Request expired, too many"), UpstreamCredentialsRejected, signed=True)


# A success that carries an error


@pytest.mark.parametrize(
    ("response", "expected", "code"),
    [
        ({"success": False}, UpstreamRejected, None),
        ({"success": "0", "message": "Too many"}, UpstreamThrottled, None),
        ({"error": "whitelist-invalid"}, UpstreamRejected, "whitelist-invalid"),
        ({"error": True}, UpstreamRejected, None),
        ({"error": {"text": "x"}}, UpstreamRejected, None),
        ({"error_code": "function-not-found"}, FunctionNotSupported, "function-not-found"),
        ({"success": True, "error_code": "x-y"}, UpstreamRejected, "x-y"),
        (["error", "Explorer failed"], UpstreamRejected, None),
        (["error", {"code": 7}], UpstreamRejected, None),
        (["error"], UpstreamRejected, None),
        (["error", "request expired"], UpstreamClockSkew, None),
    ],
)
def test_a_success_whose_response_is_an_error_is_that_error(response, expected, code):
    assert refusal({"success": True, "response": response}, expected).upstream_code == code


@pytest.mark.parametrize(
    "response",
    [{"error": None}, {"error": ""}, {"error": False, "error_code": ""}, {"success": True}, {"a": {"error": "x"}},
     ["errors", "x"], "error", [["error"]], {"success": "C"}],
)  # fmt: skip
def test_a_response_that_only_resembles_an_error_is_a_response(response):
    assert read({"success": True, "response": response}) == response


@pytest.mark.parametrize(
    ("value", "expected", "code"),
    [
        ("whitelist-invalid", UpstreamRejected, "whitelist-invalid"),
        ("Product error [get_rate]: x", UpstreamRejected, None),
        ("Too many requests", UpstreamThrottled, None),
        ("Request expired", UpstreamClockSkew, None),
        ("", UpstreamRejected, None),
        (7, UpstreamInvalidResponse, None),
        (None, UpstreamInvalidResponse, None),
        ([], UpstreamInvalidResponse, None),
    ],
)
def test_a_bare_text_where_an_object_belongs_is_the_refusal_it_probably_is(value, expected, code):
    refused = refused_text(value)

    assert type(refused) is expected
    assert refused.upstream_code == code


@pytest.mark.parametrize(
    "text",
    ["Boxcoin error [bxc_rate]: x", "ERROR: You have a syntax", "whitelist-invalid", "no-credit-balance",
     "transaction-not-found", "Too many requests", "Request expired", "Uncaught Exception"],
)  # fmt: skip
def test_texts_that_report_an_error_look_like_one(text):
    assert looks_like_error_text(text)


@pytest.mark.parametrize(
    "text",
    ["", "64850.25", "expired", "usd", "btc-ln", "https://cloud.quantapay.app/pay.php?id=1", "0xdeadbeef",
     "Terrors", "a" * 100_000, "a-" * 50_000],
)  # fmt: skip
def test_texts_that_are_answers_do_not_look_like_errors(text):
    assert not looks_like_error_text(text)


# HTTP status and headers


@pytest.mark.parametrize("status", [300, 301, 302, 307, 399, 100, 199])
def test_a_redirect_is_invalid_whatever_its_body_says(status):
    invalid({"success": True, "response": "x"}, status=status)
    invalid(error("invalid-api-key"), status=status)


@pytest.mark.parametrize("status", [400, 401, 404, 418, 500, 502, 504])
def test_a_failing_status_carries_no_success(status):
    invalid({"success": True, "response": "x"}, status=status)
    invalid("<html>Bad Gateway</html>", status=status)
    invalid("", status=status)


@pytest.mark.parametrize("status", [200, 201, 202])
def test_any_2xx_carries_a_success(status):
    assert read({"success": True, "response": "x"}, status=status) == "x"


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    "body", ["", "<html>slow down</html>", {"success": True, "response": 1}, error("made-up"), error(), b"\xff"]
)
def test_a_throttling_status_throttles_whatever_else_is_said(status, body):
    refusal(body, UpstreamThrottled, status=status)


@pytest.mark.parametrize("status", [429, 503])
def test_a_documented_code_weighs_more_than_a_throttling_status(status):
    refusal(error("invalid-api-key"), UpstreamCredentialsRejected, status=status)
    refusal(error("missing-argument"), MissingUpstreamArgument, status=status)
    refusal(error("missing-function-name"), UpstreamRejected, status=status)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, 60),
        ("", 60),
        ("soon", 60),
        ("-5", 60),
        ("1.5", 60),
        ("９", 60),
        ("0", 1),
        ("1", 1),
        (" 30 ", 30),
        ("3600", 3600),
        ("3601", 3600),
        ("9" * 10, 3600),
        ("9" * 5000, 60),
        (formatdate(NOW + 90, usegmt=True), 90),
        (formatdate(NOW + 90), 90),
        (formatdate(NOW - 90, usegmt=True), 1),
        (formatdate(NOW + 90_000, usegmt=True), 3600),
        ("Tue, 14 Nov 99999 22:13:20 GMT", 60),
        ("Tue, 14 Nov 2023 22:13:20 +99999999999999", 60),
    ],
)
def test_retry_after_is_seconds_or_a_date_held_to_an_hour(value, seconds):
    headers = [] if value is None else [("retry-after", value.encode())]

    assert refusal("", UpstreamThrottled, status=429, headers=headers).retry_after == seconds


@pytest.mark.parametrize(("encoding", "readable"), [("identity", True), ("", True), ("gzip", False), ("br", False)])
def test_only_an_unpacked_body_is_read(encoding, readable):
    body = {"success": True, "response": "x"}

    if readable:
        assert read(body, headers=[("Content-Encoding", encoding)]) == "x"
    else:
        invalid(body, headers=[("Content-Encoding", encoding)])


def test_the_repr_of_a_reply_shows_neither_headers_nor_body():
    reply = Reply(200, httpx.Headers({"x": CANARY}), CANARY.encode())

    assert CANARY not in repr(reply)


# Whatever comes

STATUSES = st.integers(100, 599)
TEXTS = st.text(max_size=20) | st.sampled_from(["error", "true", "request expired", "rate limit", "x-y"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS | st.decimals(-9999, 9999, places=4).map(float),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)
ENVELOPES = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("success", "response", "error_code", "message", "error"), JSON)
)
HEADERS = st.dictionaries(
    st.sampled_from(["retry-after", "content-encoding", "content-type"]),
    st.sampled_from(["5", "gzip", "identity", formatdate(NOW)]) | st.binary(max_size=20),
)


def chain(fault):
    while fault is not None:
        yield fault
        fault = fault.__cause__ or fault.__context__


@patient
@given(
    st.binary(max_size=300) | ENVELOPES.map(lambda value: json.dumps(value).encode()),
    STATUSES,
    st.booleans(),
    HEADERS,
)
def test_any_bytes_under_any_status_give_a_json_value_or_one_of_our_errors(body, status, signed, headers):
    try:
        answer = read(body, status=status, signed=signed, headers=[(name, headers[name]) for name in headers])
    except (UpstreamRefusal, UpstreamInvalidResponse) as fault:
        waits = fault.retry_after in range(1, 3601)
        assert waits == isinstance(fault, UpstreamThrottled)  # noqa: PT017
    else:
        json.dumps(answer, default=str, ensure_ascii=False).encode()


NOISE = st.text(st.characters(exclude_characters="[", exclude_categories=["Cs"])).filter(
    lambda text: not re.search(r'\{\s*"', text)
)
RESPONSES = JSON.filter(lambda value: not isinstance(value, (dict, list)))


@patient
@given(NOISE, RESPONSES | st.dictionaries(st.sampled_from("abc"), JSON), NOISE, st.booleans())
def test_every_envelope_comes_whole_out_of_the_noise_around_it(before, response, after, ascii_only):
    envelope = json.dumps({"success": True, "response": response}, ensure_ascii=ascii_only)

    assert read(before + envelope + after) == json.loads(envelope, parse_float=Decimal)["response"]


@patient
@given(JSON, st.integers(0, 34))
def test_what_is_plain_at_a_glance_is_read_as_if_it_were_looked_at_closely(value, depth):
    for _ in range(depth):
        value = [value]
    body = json.dumps({"success": True, "response": value})

    def outcome(text):
        try:
            return read(text)
        except (UpstreamRefusal, UpstreamInvalidResponse) as fault:
            return type(fault), fault.upstream_code

    assert outcome(body) == outcome("é" + body)


PLANTED = [
    CANARY,
    f"{NOTICE}{CANARY}",
    f'{{"success":true,"response":"{CANARY}',
    f'{{"success":true,"response":{{"error":"{CANARY}"}}}}',
    f'{{"success":true,"response":["error","{CANARY}"]}}',
    f'{{"success":false,"message":"{CANARY} request expired"}}',
    f'{{"success":false,"message":"{CANARY} too many requests"}}',
    f'{{"success":false,"error_code":"{CANARY}","message":"{CANARY}"}}',
    f'{{"success":false,"error_code":"missing-argument","message":"{CANARY}"}}',
    f'{{"success":false,"error_code":"invalid-api-key","message":"{CANARY}"}}',
    f'{{"success":true,"success":true,"response":"{CANARY}"}}',
    f'{{"success":true,"response":1e999,"x":"{CANARY}"}}',
    f'{{"success":"{CANARY}"}}',
    f'{{"{CANARY}":' * 5000,
]


@pytest.mark.parametrize("body", PLANTED, ids=range(len(PLANTED)))
@pytest.mark.parametrize("status", [200, 302, 404, 429, 500])
def test_no_text_of_the_body_is_in_the_error_or_in_what_led_to_it(body, status):
    with pytest.raises(GatewayError) as refused:
        read(body, status=status)

    for fault in chain(refused.value):
        assert CANARY not in f"{fault} {fault!r} {fault.args} {vars(fault)}"


def test_no_text_of_a_bare_refusal_is_in_its_error():
    refused = refused_text(f"{CANARY} error")

    assert CANARY not in f"{refused} {refused!r} {refused.args} {vars(refused)}"
