"""The storefront as an ASGI application: one page, quotes for it, QR codes, and what the gateway tells the shop."""

import html
import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from importlib.resources import files
from string import Template

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from gateway.clock import Clock
from gateway.sandbox.storefront.headers import FixedHeaders, headers_of
from gateway.sandbox.storefront.hooks import PATH, Hooks
from gateway.sandbox.storefront.options import StorefrontOptions
from gateway.sandbox.storefront.qr import LONGEST, qr_svg
from gateway.sandbox.storefront.shop import LAMP, Shop

_JAVASCRIPT = "text/javascript"
_FILES: Mapping[str, str] = {
    "shop.js": _JAVASCRIPT,
    "view.js": _JAVASCRIPT,
    "calls.js": _JAVASCRIPT,
    "shop.css": "text/css",
    "lamp.svg": "image/svg+xml",
    "icon.svg": "image/svg+xml",
}
_SETTINGS = Template("""\
// Written by the shop's server. The key is a publishable one: it stands in every page, and is no secret.
export { CheckoutError, createCheckout, watchCheckout } from $sdk;
export const publishableKey = $key;
""")
_LONGEST_BODY = 1024
"""Bytes."""


class QuoteRequest(BaseModel):
    """The body of `POST /quote`; none asks for a new order."""

    model_config = ConfigDict(extra="forbid", strict=True)

    order_id: str | None = Field(None, max_length=40)


def create_storefront(options: StorefrontOptions, clock: Clock) -> Starlette:
    """Build a shop that is a client of the gateway in `options`."""
    routes = _Routes(options, Shop(options, clock))
    return Starlette(
        routes=[
            Route("/", routes.page, methods=["GET"]),
            Route("/settings.js", routes.settings, methods=["GET"]),
            Route("/quote", routes.quote, methods=["POST"]),
            Route("/orders", routes.orders, methods=["GET"]),
            Route(PATH, routes.hook, methods=["POST"]),
            Route("/qr.svg", routes.qr, methods=["GET"]),
            Route("/{name}", routes.file, methods=["GET"]),
        ],
        middleware=[Middleware(FixedHeaders, headers=headers_of(options))],
    )


class _Routes:
    def __init__(self, options: StorefrontOptions, shop: Shop) -> None:
        self._options = options
        self._shop = shop
        self._hooks = None if options.hook_secret is None else Hooks(shop, options.hook_secret)

    async def page(self, _request: Request) -> Response:
        """Show the lamp."""
        price = f"${LAMP.price}"
        content = Template(_read("index.html").decode()).substitute(
            name=html.escape(LAMP.name), price=price, gateway=html.escape(self._options.gateway)
        )
        return Response(content, media_type="text/html")

    async def settings(self, _request: Request) -> Response:
        """Tell the page where the gateway is, and hand it the SDK."""
        sdk, key = f"{self._options.gateway}/sdk/v1.js", self._options.publishable_key
        return Response(_SETTINGS.substitute(sdk=json.dumps(sdk), key=json.dumps(key)), media_type=_JAVASCRIPT)

    async def quote(self, request: Request) -> Response:
        """Sign a quote: for a new order, or again for `order_id`. 404 for an order that is not the shop's."""
        body = await request.body()
        try:
            asked = QuoteRequest.model_validate_json(body[:_LONGEST_BODY]) if body else QuoteRequest()
        except ValidationError:
            return JSONResponse({"error": "the body is nothing, or an order_id"}, status_code=400)
        quote = self._shop.quote(asked.order_id or self._shop.open_order())
        return JSONResponse({"error": "no such order"}, status_code=404) if quote is None else JSONResponse(quote)

    async def orders(self, _request: Request) -> Response:
        """Show the orders. A real shop shows them to its own people."""
        return JSONResponse({"orders": [asdict(order) for order in self._shop.orders()]})

    async def hook(self, request: Request) -> Response:
        """Take an event of the gateway: 204, or 401 for one that is not signed as it should be."""
        if self._hooks is not None and self._hooks.take(await request.body(), request.headers):
            return Response(status_code=204)
        return JSONResponse({"error": "no right signature"}, status_code=401)

    async def qr(self, request: Request) -> Response:
        """Draw the address of a payment page, and of nothing else."""
        url = request.query_params.get("url", "")
        is_ours = url.startswith(f"{self._options.payment_page}?")
        if not is_ours or not url.isascii() or len(url) > LONGEST:
            return PlainTextResponse("This is not the address of a payment page.", status_code=400)
        return Response(qr_svg(url), media_type="image/svg+xml")

    async def file(self, request: Request) -> Response:
        """Return one of the files that the page loads."""
        name = request.path_params["name"]
        if name not in _FILES:
            return PlainTextResponse("There is nothing here.", status_code=404)
        return Response(_read(name), media_type=_FILES[name])


@cache
def _read(name: str) -> bytes:
    return files("gateway.sandbox.storefront").joinpath("static", name).read_bytes()
