"""An answer whose headers are written already."""

from collections.abc import Sequence

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

NO_CONTENT = frozenset({204, 304})


class Answer(Response):
    """A response of bytes; Starlette's own would encode and look through every header again."""

    def __init__(self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes = b"") -> None:
        """`headers`: names in lower case, without `Content-Length`."""
        self.status_code = status
        self.background = None
        self.body = body
        self.raw_headers = [*headers]
        if status not in NO_CONTENT:
            self.raw_headers.append((b"content-length", b"%d" % len(body)))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it: over HTTP, and with nothing to be done after."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body})
