"""The headers of every answer of the shop: what its page may load, and whom it may talk to."""

from collections.abc import Mapping

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.sandbox.storefront.options import StorefrontOptions


def headers_of(options: StorefrontOptions) -> dict[str, str]:
    """Return the headers of a shop whose page may load and call the gateway, and nothing else."""
    policy = {
        "default-src": "'none'",
        "script-src": f"'self' {options.gateway}",
        "connect-src": f"'self' {options.gateway}",
        "img-src": "'self'",
        "style-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return {
        "Cache-Control": "no-store",
        "Content-Security-Policy": "; ".join(f"{name} {sources}" for name, sources in policy.items()),
        "Cross-Origin-Opener-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }


class FixedHeaders:
    """Puts the same headers on every answer."""

    def __init__(self, app: ASGIApp, *, headers: Mapping[str, str]) -> None:
        self._app = app
        self._headers = headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(self._headers)
            await send(message)

        await self._app(scope, receive, send_with_headers)
