"""Every way a request can fail, as one tree. The leaves are the problem codes that callers see (RFC 9457).

* GatewayError
  x CallerError                       the caller can mend it; nothing was sent upstream
    - MalformedRequest                400 malformed-request
    - Unauthenticated                 401 unauthenticated
    - InsufficientScope               403 insufficient-scope
    - FunctionNotAllowed              403 function-not-allowed
    - NotFound                        404 not-found
    - MethodNotAllowed                405 method-not-allowed
    - RequestTooLarge                 413 request-too-large
    - UnsupportedMediaType            415 unsupported-media-type
    - ValidationFailed                422 validation-failed
    - MissingArgument                 422 missing-argument
    - RateLimited                     429 rate-limited
  x UpstreamError                     QuantaPay, or the way to it, failed
    + UpstreamRefusal                 ... with a definite no: nothing happened there
      - FunctionNotSupported          501 function-not-supported
      - UpstreamRejected              502 upstream-rejected
      - UpstreamCredentialsRejected   502 upstream-credentials-rejected
      - UpstreamClockSkew             502 upstream-clock-skew
      - UpstreamThrottled             503 upstream-throttled
    - UpstreamInvalidResponse         502 upstream-invalid-response
    - UpstreamUnavailable             503 upstream-unavailable
    - UpstreamTimeout                 504 upstream-timeout
  x StorageUnavailable                503 storage-unavailable
  x NotReady                          503 not-ready
  x InternalError                     500 internal-error

An error carries what a caller may know and nothing else: no upstream body, no path, no secret ever goes into one.
`http/problems.py` is the only place that turns it into an answer.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

Outcome = Literal["unknown", "not_sent"]
"""What became of a call that changes something: it may have happened, or it surely did not."""


@dataclass(frozen=True, slots=True)
class FieldFault:
    """One thing wrong with one input: where it is, and what it should have been."""

    detail: str
    pointer: str | None = None
    """A JSON Pointer into the body as a URI fragment (RFC 6901 §6), such as `#/price`."""
    parameter: str | None = None
    """The name of a path or query parameter, or of a header."""


class GatewayError(Exception):
    """The root: an answer other than the one asked for, with the status and code callers will see."""

    status: ClassVar[int]
    code: ClassVar[str]
    title: ClassVar[str]
    remedy: ClassVar[str]
    """What to do about it, for the page at `/problems/<code>`."""

    def __init__(
        self,
        detail: str | None = None,
        *,
        faults: Sequence[FieldFault] = (),
        retry_after: int | None = None,
        outcome: Outcome | None = None,
        upstream_code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail or self.title)
        self.detail = detail or self.remedy
        self.faults = tuple(faults)
        self.retry_after = retry_after
        """Seconds, at least 1, until trying again makes sense."""
        self.outcome = outcome
        self.upstream_code = upstream_code
        """QuantaPay's own slug, already held to `[a-z0-9-]{1,64}` (contract §3)."""
        self.headers = dict(headers or {})


class CallerError(GatewayError):
    """The request is at fault; it cost no upstream call."""


class MalformedRequest(CallerError):
    """The bytes of the request cannot be read at all."""

    status, code = 400, "malformed-request"
    title = "The request could not be read"
    remedy = "Send one JSON document in UTF-8, without duplicate names, nested at most a few levels deep."


class Unauthenticated(CallerError):
    """No key, or none that we know."""

    status, code = 401, "unauthenticated"
    title = "A valid API key is required"
    remedy = "Send `Authorization: Bearer qsk_…` with a key that this gateway's configuration lists."

    def __init__(self, detail: str | None = None) -> None:
        super().__init__(detail, headers={"WWW-Authenticate": "Bearer"})


class InsufficientScope(CallerError):
    """The key is known but may not do this."""

    status, code = 403, "insufficient-scope"
    title = "The key lacks the scope this needs"
    remedy = "Use a key whose client has the scope, or add the scope to the client in gateway.yaml."


class FunctionNotAllowed(CallerError):
    """`/functions/{function}` serves only what the operator listed."""

    status, code = 403, "function-not-allowed"
    title = "This function is not allowed"
    remedy = "An operator can add the function to `functions.allow` in gateway.yaml."


class NotFound(CallerError):
    """No such path, or no such thing."""

    status, code = 404, "not-found"
    title = "Not found"
    remedy = "Check the path and the id; paths have no trailing slash."


class MethodNotAllowed(CallerError):
    """The path exists, with other methods."""

    status, code = 405, "method-not-allowed"
    title = "The method is not allowed here"
    remedy = "Use one of the methods in the `Allow` header."


class RequestTooLarge(CallerError):
    """The body is over 64 KiB."""

    status, code = 413, "request-too-large"
    title = "The request body is too large"
    remedy = "Send at most 64 KiB (65,536 bytes)."


class UnsupportedMediaType(CallerError):
    """A body that does not say it is JSON."""

    status, code = 415, "unsupported-media-type"
    title = "The body must be JSON"
    remedy = "Send `Content-Type: application/json`, without a `Content-Encoding`."


class ValidationFailed(CallerError):
    """Readable, but a value is not what it should be; `faults` names each."""

    status, code = 422, "validation-failed"
    title = "The request has invalid values"
    remedy = "`errors` names each value that is wrong and what it should be."


class MissingArgument(CallerError):
    """QuantaPay asked for a parameter that `/functions` was not given (contract §3)."""

    status, code = 422, "missing-argument"
    title = "The function needs another parameter"
    remedy = "Add the parameter that the function requires."


class RateLimited(CallerError):
    """Too many requests for this client's limit."""

    status, code = 429, "rate-limited"
    title = "Too many requests"
    remedy = "Wait for the seconds in `Retry-After`, then try again; `RateLimit` tells what is left."


class UpstreamError(GatewayError):
    """QuantaPay did not give a usable answer."""


class UpstreamRefusal(UpstreamError):
    """QuantaPay said no before doing anything, so the call may be sent again once its cause is gone."""


class FunctionNotSupported(UpstreamRefusal):
    """QuantaPay answered `function-not-found` (contract §3)."""

    status, code = 501, "function-not-supported"
    title = "QuantaPay does not offer this function"
    remedy = "If the account knows it by another name, an operator can set `functions.rename` in gateway.yaml."


class UpstreamRejected(UpstreamRefusal):
    """QuantaPay answered an error we do not map, or one without a code."""

    status, code = 502, "upstream-rejected"
    title = "QuantaPay rejected the call"
    remedy = "`upstream_code`, where present, is QuantaPay's own code for the reason."


class UpstreamCredentialsRejected(UpstreamRefusal):
    """QuantaPay does not accept the merchant's key or signature."""

    status, code = 502, "upstream-credentials-rejected"
    title = "QuantaPay rejected the gateway's credentials"
    remedy = "An operator must check QUANTAPAY_API_KEY; callers can do nothing about it."


class UpstreamClockSkew(UpstreamRefusal):
    """QuantaPay answered "Request expired": our clocks are over five minutes apart (contract §5)."""

    status, code = 502, "upstream-clock-skew"
    title = "The gateway's clock differs from QuantaPay's"
    remedy = "An operator must correct the clock of the gateway's machine (NTP)."


class UpstreamThrottled(UpstreamRefusal):
    """QuantaPay asks for fewer calls (contract §4)."""

    status, code = 503, "upstream-throttled"
    title = "QuantaPay is throttling"
    remedy = "Wait for the seconds in `Retry-After`, then try again."


class UpstreamInvalidResponse(UpstreamError):
    """An answer that is not the documented envelope, or not what the function should give."""

    status, code = 502, "upstream-invalid-response"
    title = "QuantaPay's answer could not be understood"
    remedy = "Try again; if it lasts, the operator's metrics show how often it happens."


class UpstreamUnavailable(UpstreamError):
    """No connection to QuantaPay: the call was surely not sent."""

    status, code = 503, "upstream-unavailable"
    title = "QuantaPay cannot be reached"
    remedy = "Wait for the seconds in `Retry-After`, then try again."


class UpstreamTimeout(UpstreamError):
    """The deadline passed first."""

    status, code = 504, "upstream-timeout"
    title = "QuantaPay did not answer in time"
    remedy = "Try again. With `outcome: unknown` the call may have been carried out."


class StorageUnavailable(GatewayError):
    """Redis did not do what was asked within its time."""

    status, code = 503, "storage-unavailable"
    title = "The gateway's storage is unavailable"
    remedy = "Wait for the seconds in `Retry-After`, then try again."


class NotReady(GatewayError):
    """Starting or draining: send traffic elsewhere."""

    status, code = 503, "not-ready"
    title = "The gateway is not taking traffic"
    remedy = "Send the request to another replica."


class InternalError(GatewayError):
    """A bug of ours."""

    status, code = 500, "internal-error"
    title = "The gateway failed"
    remedy = "This is a bug. Give the operators the `request_id`."


def problem_types() -> Iterator[type[GatewayError]]:
    """Yield every concrete error, in the order of the tree above."""
    pending: list[type[GatewayError]] = [GatewayError]
    while pending:
        error = pending.pop(0)
        pending = [*error.__subclasses__(), *pending]
        if "code" in vars(error):  # not one that only carries more than its parent
            yield error
