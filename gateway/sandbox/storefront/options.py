"""What a storefront has to know."""

from dataclasses import dataclass

from pydantic import SecretStr


@dataclass(frozen=True, slots=True, kw_only=True)
class StorefrontOptions:
    """The shop's client of the gateway, and the addresses of its world. URLs have no final slash."""

    gateway: str
    """Origin of the gateway, such as `http://127.0.0.1:8080`."""
    payment_page: str
    """The payment page without its query, such as `http://127.0.0.1:8090/pay.php`: all that QR codes lead to."""
    client_id: str
    publishable_key: str
    """Stands in the page, for everybody to read."""
    quote_secret: SecretStr
    """Stays in the shop's server."""
    hook_secret: SecretStr | None = None
    """Signs the gateway's events to the shop (`whsec_…`); None: the shop is told of none."""
