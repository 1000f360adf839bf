"""Every way a request can fail, as one tree. The leaves are the problem codes that callers see (RFC 9457).

* GatewayError
  x CallerError                       the caller can mend it; nothing was sent upstream
    - MalformedRequest                400 malformed-request
    - Unauthenticated                 401 unauthenticated
    - InvalidSignature                401 invalid-signature
    - InsufficientScope               403 insufficient-scope
    - OriginNotAllowed                403 origin-not-allowed
    - InvalidQuote                    403 invalid-quote
    - QuoteExpired                    403 quote-expired
    - FunctionNotAllowed              403 function-not-allowed
    - NotFound                        404 not-found
    - MethodNotAllowed                405 method-not-allowed
    - RequestTooLarge                 413 request-too-large
    - UnsupportedMediaType            415 unsupported-media-type
    - OrderIdTaken                    409 order-id-taken
    - OrderConflict                   409 order-conflict
    - OrderAlreadyPaid                409 order-already-paid
    - IdempotencyInProgress           409 idempotency-in-progress
    - IdempotencyKeyReused            422 idempotency-key-reused
    - ValidationFailed                422 validation-failed
    - MissingArgument                 422 missing-argument
    - RateLimited                     429 rate-limited
    - TooManyStreams                  429 too-many-streams
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
    - UpstreamBudgetExhausted         503 upstream-budget-exhausted
    - Overloaded                      503 overloaded
  x StorageUnavailable                503 storage-unavailable
  x WebhooksNotConfigured             503 webhooks-not-configured
  x NotReady                          503 not-ready
  x InternalError                     500 internal-error

An error carries what a caller may know and nothing else: no upstream body, no path, no secret ever goes into one.
`http/problems.py` is the only place that turns it into an answer.
"""

from gateway.errors.caller import (
    CallerError,
    FunctionNotAllowed,
    IdempotencyInProgress,
    IdempotencyKeyReused,
    InsufficientScope,
    InvalidQuote,
    InvalidSignature,
    MalformedRequest,
    MethodNotAllowed,
    MissingArgument,
    NotFound,
    OrderAlreadyPaid,
    OrderConflict,
    OrderIdTaken,
    OriginNotAllowed,
    QuoteExpired,
    RateLimited,
    RequestTooLarge,
    TooManyStreams,
    Unauthenticated,
    UnsupportedMediaType,
    ValidationFailed,
)
from gateway.errors.own import InternalError, NotReady, StorageUnavailable, WebhooksNotConfigured
from gateway.errors.root import FieldFault, GatewayError, Outcome, problem_types
from gateway.errors.upstream import (
    FunctionNotSupported,
    Overloaded,
    UpstreamBudgetExhausted,
    UpstreamClockSkew,
    UpstreamCredentialsRejected,
    UpstreamError,
    UpstreamInvalidResponse,
    UpstreamRefusal,
    UpstreamRejected,
    UpstreamThrottled,
    UpstreamTimeout,
    UpstreamUnavailable,
)

__all__ = [
    "CallerError",
    "FieldFault",
    "FunctionNotAllowed",
    "FunctionNotSupported",
    "GatewayError",
    "IdempotencyInProgress",
    "IdempotencyKeyReused",
    "InsufficientScope",
    "InternalError",
    "InvalidQuote",
    "InvalidSignature",
    "MalformedRequest",
    "MethodNotAllowed",
    "MissingArgument",
    "NotFound",
    "NotReady",
    "OrderAlreadyPaid",
    "OrderConflict",
    "OrderIdTaken",
    "OriginNotAllowed",
    "Outcome",
    "Overloaded",
    "QuoteExpired",
    "RateLimited",
    "RequestTooLarge",
    "StorageUnavailable",
    "TooManyStreams",
    "Unauthenticated",
    "UnsupportedMediaType",
    "UpstreamBudgetExhausted",
    "UpstreamClockSkew",
    "UpstreamCredentialsRejected",
    "UpstreamError",
    "UpstreamInvalidResponse",
    "UpstreamRefusal",
    "UpstreamRejected",
    "UpstreamThrottled",
    "UpstreamTimeout",
    "UpstreamUnavailable",
    "ValidationFailed",
    "WebhooksNotConfigured",
    "problem_types",
]
