"""The state of the gateway for people: one page in one answer, which then asks `/status` by itself.

Style and script lie within the page and are named by their hashes in its policy, so it loads nothing from anywhere and
works under any path that a proxy gives it. The script sets all that it was answered as text.
"""

import base64
import hashlib
from functools import cache
from importlib.resources import files
from string import Template

from starlette.responses import Response


def status_page() -> Response:
    """Return the page. It holds no fact about the gateway: the first `/status` brings them."""
    content, policy = _page()
    headers = {
        "Cache-Control": "no-store",
        "Content-Security-Policy": policy,
        "Cross-Origin-Opener-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
    }
    return Response(content, media_type="text/html", headers=headers)


@cache
def _page() -> tuple[str, str]:
    """Return the page and its Content-Security-Policy."""
    style, script = _read("page.css"), _read("page.js")
    policy = {
        "default-src": "'none'",
        "script-src": _hash_source(script),
        "style-src": _hash_source(style),
        "connect-src": "'self'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    content = Template(_read("page.html")).substitute(style=style, script=script)
    return content, "; ".join(f"{name} {sources}" for name, sources in policy.items())


def _hash_source(text: str) -> str:
    """Return what allows this inline text and no other (CSP Level 3 §2.3.1)."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _read(name: str) -> str:
    return files("gateway.routes.status_page").joinpath(name).read_text(encoding="utf-8")
