"""What the caller can mend; nothing was sent upstream."""

from gateway.errors.root import GatewayError


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


class InvalidSignature(CallerError):
    """A webhook without the secret that only QuantaPay and the merchant know (contract §8)."""

    status, code = 401, "invalid-signature"
    title = "The webhook's key is not right"
    remedy = "An operator must set QUANTAPAY_WEBHOOK_SECRET to the Webhook Secret Key of the QuantaPay account."


class InsufficientScope(CallerError):
    """The key is known but may not do this."""

    status, code = 403, "insufficient-scope"
    title = "The key lacks the scope this needs"
    remedy = "Use a key whose client has the scope, or add the scope to the client in gateway.yaml."


class OriginNotAllowed(CallerError):
    """A publishable key works only on the pages of its own origins."""

    status, code = 403, "origin-not-allowed"
    title = "The key may not be used from this origin"
    remedy = "Call from a page on one of the client's `origins` in gateway.yaml; they are compared exactly."


class InvalidQuote(CallerError):
    """The quote was not signed by the shop's server for exactly this order."""

    status, code = 403, "invalid-quote"
    title = "The quote's signature is not right"
    remedy = (
        "Have the shop's server sign the order with the client's `quote_secret`, and send price, currency and order id "
        "exactly as they were signed."
    )


class QuoteExpired(CallerError):
    """The quote was signed more than five minutes ago, or as long ahead."""

    status, code = 403, "quote-expired"
    title = "The quote is no longer valid"
    remedy = "Ask the shop's server for a new quote; its clock must be right."


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


class TooManyStreams(CallerError):
    """The client, the address or the session has as many open event streams as it may."""

    status, code = 429, "too-many-streams"
    title = "Too many open event streams"
    remedy = "Close streams that nobody watches, or wait for the seconds in `Retry-After`."


class OrderConflict(CallerError):
    """The order has a checkout session with another price or currency."""

    status, code = 409, "order-conflict"
    title = "The order has a session at another price"
    remedy = "Show the session that there is, or use another `order_id` for the new price."


class OrderAlreadyPaid(CallerError):
    """The order's checkout session is paid, so there is nothing to pay."""

    status, code = 409, "order-already-paid"
    title = "The order is paid"
    remedy = "Show the customer that the order is paid; use another `order_id` for another order."


class OrderIdTaken(CallerError):
    """An order id belongs to the client that used it first, for 30 days."""

    status, code = 409, "order-id-taken"
    title = "Another client uses this order id"
    remedy = "Use another `order_id`, such as one that starts with the name of your service."


class IdempotencyInProgress(CallerError):
    """A request with the same `Idempotency-Key` is still under way."""

    status, code = 409, "idempotency-in-progress"
    title = "A request with this idempotency key is under way"
    remedy = "Wait for the seconds in `Retry-After`, then send the same request again."


class IdempotencyKeyReused(CallerError):
    """The `Idempotency-Key` was used with another body in the last 24 hours."""

    status, code = 422, "idempotency-key-reused"
    title = "The idempotency key belongs to another request"
    remedy = "Use a new `Idempotency-Key` for a new request, and the old one only with the same body."
