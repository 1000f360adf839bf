"""What a problem says, however it is written."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from gateway.errors import FieldFault, GatewayError, RateLimited, Unauthenticated, UpstreamRejected, problem_types
from gateway.http.problems import Problems

PROBLEMS = Problems("https://gateway.example")
TEXTS = st.text(alphabet=st.characters(exclude_categories=()), max_size=20)
"""Half surrogate pairs, too."""


def request(request_id: str = "id") -> Request:
    return Request({"type": "http", "state": {"request_id": request_id}})


@given(
    kind=st.sampled_from([kind for kind in problem_types() if kind.__init__ is GatewayError.__init__]),
    detail=st.none() | TEXTS,
    request_id=TEXTS,
    faults=st.lists(st.builds(FieldFault, TEXTS, st.none() | TEXTS, st.none() | TEXTS), max_size=22),
    retry_after=st.none() | st.integers(1, 10**9),
    outcome=st.none() | st.sampled_from(["unknown", "not_sent"]),
    upstream_code=st.none() | st.from_regex("[a-z0-9-]{1,64}", fullmatch=True),
)
def test_a_problem_is_its_document_as_json(
    kind, detail, request_id, faults, retry_after, outcome, upstream_code
) -> None:
    error = kind(detail, faults=faults, retry_after=retry_after, outcome=outcome, upstream_code=upstream_code)
    places = [{"pointer": fault.pointer, "parameter": fault.parameter, "detail": fault.detail} for fault in faults]
    document = {
        "type": f"https://gateway.example/problems/{kind.code}",
        "title": kind.title,
        "status": kind.status,
        "detail": detail or kind.remedy,
        "code": kind.code,
        "request_id": request_id,
        "errors": [{name: text for name, text in place.items() if text is not None} for place in places[:20]] or None,
        "retry_after": retry_after,
        "outcome": outcome,
        "upstream_code": upstream_code,
    }
    given = {name: value for name, value in document.items() if value is not None}
    answer = PROBLEMS.response(error, request(request_id))
    assert answer.body == json.dumps(given, separators=(",", ":")).encode()
    assert answer.headers["content-length"] == str(len(answer.body))


@pytest.mark.parametrize(
    ("error", "name", "value"),
    [
        (RateLimited(retry_after=7), "retry-after", "7"),
        (Unauthenticated(), "www-authenticate", "Bearer"),
        (UpstreamRejected(headers={"X-Upper": "é"}), "x-upper", "é"),
    ],
)
def test_a_problem_has_its_errors_headers(error: GatewayError, name: str, value: str) -> None:
    answer = PROBLEMS.response(error, request())
    assert answer.headers[name] == value
    assert answer.headers["content-type"] == "application/problem+json"
    assert all(header == header.lower() for header, _ in answer.raw_headers)


def test_only_so_many_beginnings_are_kept() -> None:
    problems = Problems(None)
    for number in range(1000):
        problems.response(RateLimited(f"detail {number}"), request())
    assert problems._begin.cache_info().currsize == 256
