"""What went wrong with QuantaPay, or on the way to it."""

from gateway.errors.root import GatewayError


class UpstreamError(GatewayError):
    """QuantaPay did not give a usable answer."""

    upstream_status: int | None = None
    """The HTTP status of the answer, if there was one; for `Cache-Status` (RFC 9211 §2.3), not for callers."""


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


class UpstreamBudgetExhausted(UpstreamError):
    """The calls that QuantaPay tolerates in a minute are used up; nothing was sent (interface §2.3)."""

    status, code = 503, "upstream-budget-exhausted"
    title = "The gateway's share of QuantaPay calls is used up"
    remedy = "Wait for the seconds in `Retry-After`, then try again."


class Overloaded(UpstreamError):
    """More calls are under way than the gateway holds open at once; nothing was sent."""

    status, code = 503, "overloaded"
    title = "The gateway has too much under way"
    remedy = "Wait for the seconds in `Retry-After`, then try again."
