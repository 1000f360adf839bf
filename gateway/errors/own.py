"""What is wrong with the gateway itself, or with its storage."""

from gateway.errors.root import GatewayError


class StorageUnavailable(GatewayError):
    """Redis did not do what was asked within its time."""

    status, code = 503, "storage-unavailable"
    title = "The gateway's storage is unavailable"
    remedy = "Wait for the seconds in `Retry-After`, then try again."


class WebhooksNotConfigured(GatewayError):
    """Without the secret nobody can tell QuantaPay's webhooks from a stranger's."""

    status, code = 503, "webhooks-not-configured"
    title = "The gateway takes no webhooks"
    remedy = "An operator must set QUANTAPAY_WEBHOOK_SECRET to the Webhook Secret Key of the QuantaPay account."


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
