"""QuantaPay as a function: a transport for tests that are not about sockets."""

import inspect
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import httpx

from gateway.errors import UpstreamInvalidResponse, UpstreamUnavailable
from gateway.quantapay.attempt import Attempt
from gateway.quantapay.reply import Reply
from gateway.quantapay.transport import RECONNECT_AFTER

Handler: TypeAlias = Callable[[httpx.Request], httpx.Response | Awaitable[httpx.Response]]


class Mocked:
    """Hands each request to a function, which answers it or raises one of httpx's errors.

    A `ConnectError` is no connection, any other error an answer that was cut off. A `ReadTimeout` is QuantaPay's
    silence until the caller's deadline, which is a `TimeoutError` in whoever waits.
    """

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    async def exchange(self, request: bytes, attempt: Attempt) -> Reply:
        attempt.note_sent()
        try:
            response = self._handler(_parsed(request))
            if inspect.isawaitable(response):
                response = await response
            attempt.status = response.status_code
            body = b"".join([part async for part in response.stream])
        except httpx.ConnectError:
            attempt.sent = False
            raise UpstreamUnavailable(retry_after=RECONNECT_AFTER) from None
        except httpx.TimeoutException:
            raise TimeoutError from None
        except httpx.TransportError:
            raise UpstreamInvalidResponse("QuantaPay's answer was cut off.") from None
        headers = {name.lower(): value for name, value in response.headers.items()}
        return Reply(response.status_code, headers, body)

    async def close(self) -> None:
        pass


def _parsed(request: bytes) -> httpx.Request:
    head, _, body = request.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    method, target, _ = first.split(b" ")
    headers = [(name, value) for name, _, value in (line.partition(b": ") for line in lines)]
    parsed = httpx.Request(method, f"https://{dict(headers)[b'Host'].decode()}{target.decode()}", headers=headers)
    assert int(parsed.headers["Content-Length"]) == len(body), "a whole request in one piece"
    return httpx.Request(method, parsed.url, headers=headers, content=body)
