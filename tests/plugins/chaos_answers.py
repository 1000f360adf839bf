"""What an answer of the gateway must look like, whatever broke behind it (interface §4)."""

import httpx

from gateway.errors import InternalError
from gateway.http.problems import MEDIA_TYPE, PROBLEM_TYPES

_REQUIRED = {"type", "title", "status", "detail", "code", "request_id"}
_OPTIONAL = {"errors", "retry_after", "outcome", "upstream_code"}
_SUCCESSES = {200: "application/json", 201: "application/json"}


def problem_of(answer: httpx.Response) -> dict[str, object] | None:
    """Return the problem that an answer is, None if it is a success; fail if it is neither as documented."""
    seen = f"{answer.status_code} {dict(answer.headers)} {answer.text[:500]}"
    assert answer.headers.get("x-request-id"), seen
    if answer.status_code in _SUCCESSES:
        assert answer.headers["content-type"] == _SUCCESSES[answer.status_code], seen
        assert isinstance(answer.json(), dict), seen
        return None
    assert answer.headers.get("content-type") == MEDIA_TYPE, seen
    problem: dict[str, object] = answer.json()
    assert problem.keys() >= _REQUIRED, seen
    assert problem.keys() <= _REQUIRED | _OPTIONAL, seen
    kind = PROBLEM_TYPES[str(problem["code"])]
    assert kind is not InternalError, seen  # documented, but a bug whenever it is seen
    assert answer.status_code == problem["status"] == kind.status, seen
    assert problem["title"] == kind.title, seen
    assert problem["request_id"] == answer.headers["x-request-id"], seen
    assert answer.headers.get("retry-after") == _text(problem.get("retry_after")), seen
    assert problem.get("retry_after") is None or int(str(problem["retry_after"])) >= 1, seen
    assert problem.get("outcome") in (None, "unknown", "not_sent"), seen
    # QuantaPay's envelope, its web server's pages, our own frames: none of them is a caller's business.
    assert not any(mark in answer.text for mark in ('"success"', "payment_url", "<", "Traceback", ".py")), seen
    return problem


def verdict(answer: httpx.Response) -> tuple[int, str | None, str | None]:
    """Return status, code and outcome of a documented answer; the last two are None for a success."""
    problem = problem_of(answer) or {}
    return answer.status_code, _text(problem.get("code")), _text(problem.get("outcome"))


def _text(value: object) -> str | None:
    return None if value is None else str(value)
