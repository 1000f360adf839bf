"""A shop that takes payments by the gateway: its server, which signs quotes and is told of payments, and its one page.

`shop.py`, `hooks.py` and `static/shop.js` are what a real shop would write; the rest puts them on a loopback port.
"""

from gateway.sandbox.storefront.app import create_storefront
from gateway.sandbox.storefront.hooks import PATH as HOOK
from gateway.sandbox.storefront.options import StorefrontOptions
from gateway.sandbox.storefront.serve import storefront_server

__all__ = ["HOOK", "StorefrontOptions", "create_storefront", "storefront_server"]
