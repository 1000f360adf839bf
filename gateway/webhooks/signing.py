"""The headers by which a subscriber knows that an event is ours: Standard Webhooks, https://www.standardwebhooks.com."""

from collections.abc import Sequence
from datetime import datetime

from pydantic import SecretStr
from standardwebhooks import Webhook


def signed_headers(secrets: Sequence[SecretStr], *, message_id: str, message: str, at: datetime) -> dict[str, str]:
    """Return the headers of one attempt to send `message`, made `at` a time in UTC.

    `secrets`: `whsec_` and base64, as the configuration has them. There is a signature by each, so that while a secret
    is rotated a subscriber can check with either.
    """
    signatures = [Webhook(secret.get_secret_value()).sign(message_id, at, message) for secret in secrets]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(signatures),
    }
