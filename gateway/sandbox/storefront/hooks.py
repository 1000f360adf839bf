"""How the shop is told of payments: events of the gateway, signed as Standard Webhooks are (docs/webhooks.md)."""

from collections.abc import Mapping

import structlog
from pydantic import SecretStr
from standardwebhooks import Webhook, WebhookVerificationError

from gateway.sandbox.storefront.shop import Shop

log = structlog.get_logger()

PATH = "/hooks/quantapay"


class Hooks:
    """Takes events that somebody who knows `secret` has signed."""

    def __init__(self, shop: Shop, secret: SecretStr) -> None:
        self._shop = shop
        self._webhook = Webhook(secret.get_secret_value())

    def take(self, body: bytes, headers: Mapping[str, str]) -> bool:
        """Have the shop look at an event; False if the signature is wrong or old.

        The same event may come again, and an older one after a newer. An order only moves forward, so neither does
        harm, and no `webhook-id` needs to be remembered.
        """
        try:
            event = self._webhook.verify(body, dict(headers))
        except (WebhookVerificationError, ValueError):  # its own, and what it lets through of headers that are no such
            return False
        order = self._shop.learn(event)
        if order is not None:
            log.info("the shop was told of its order", order_id=order.id, status=order.status, type=event["type"])
        return True
