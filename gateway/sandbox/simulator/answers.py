"""An HTTP answer as a value, good or bad, and the sending of it."""

import socket
import struct
from asyncio import Transport
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, Self

import anyio
from starlette.types import Receive, Scope, Send

from gateway.clock import Clock
from gateway.sandbox.simulator.php import Json, json_encode

TRANSPORT_EXTENSION = "gateway.sandbox.transport"
"""The ASGI extension in which our server hands out the connection as `transport`, so that it can be broken."""

Manner = Literal["whole", "chunked", "trickle", "cut-off", "close", "reset", "hang"]
"""How an answer travels:

* `whole`: with its length;
* `chunked`: without a length;
* `trickle`: byte by byte, `delay` apart;
* `cut-off`: half of what its length announces, then the connection ends;
* `close`, `reset`: nothing, and the connection ends, politely or not;
* `hang`: nothing until the client leaves.
"""

_ENDS_CONNECTION = ("cut-off", "close", "reset")
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


def _php_headers() -> Mapping[str, str]:
    return {"content-type": "text/html; charset=UTF-8"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Status, headers, body, and how they travel. The defaults are PHP's (contract §1, §2)."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=_php_headers)
    body: bytes = b""
    manner: Manner = "whole"
    delay: float = 0.0
    """Seconds before the answer, or before each byte of a trickle."""

    def late_by(self, seconds: float) -> Self:
        """Return the same answer with this delay."""
        return replace(self, delay=seconds)


def json_answer(document: Json) -> Answer:
    """Answer as PHP does: JSON that says it is HTML."""
    return Answer(body=json_encode(document))


class Delivery:
    """An ASGI application that sends one answer; it gives up as soon as the client leaves."""

    def __init__(self, answer: Answer, clock: Clock) -> None:
        self._answer = answer
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer in its manner.

        Ending a connection early needs the transport extension; without it, as in-process clients are,
        `ConnectionResetError` is raised.
        """
        transport: Transport | None = scope.get("extensions", {}).get(TRANSPORT_EXTENSION, {}).get("transport")
        if transport is None and self._answer.manner in _ENDS_CONNECTION:
            raise ConnectionResetError
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_cancel_on_leaving, receive, tasks.cancel_scope)
            await self._deliver(send, transport)
            tasks.cancel_scope.cancel()

    async def _deliver(self, send: Send, transport: Transport | None) -> None:
        answer = self._answer
        if answer.delay and answer.manner != "trickle":
            await self._clock.sleep(answer.delay)
        match answer.manner:
            case "whole" | "chunked":
                await self._start(send, length=len(answer.body) if answer.manner == "whole" else None)
                await send({"type": "http.response.body", "body": answer.body, "more_body": False})
            case "trickle":
                await self._trickle(send)
            case "cut-off":
                await self._start(send, length=len(answer.body))
                half = answer.body[: len(answer.body) // 2]
                await send({"type": "http.response.body", "body": half, "more_body": True})
                await _end_connection(transport, politely=True)
            case "close" | "reset":
                await _end_connection(transport, politely=answer.manner == "close")
            case "hang":
                await anyio.sleep_forever()

    async def _start(self, send: Send, *, length: int | None) -> None:
        announced = {} if length is None else {"content-length": str(length)}
        headers = {**self._answer.headers, **announced}
        await send(
            {
                "type": "http.response.start",
                "status": self._answer.status,
                "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()],
            }
        )

    async def _trickle(self, send: Send) -> None:
        body = self._answer.body
        await self._start(send, length=len(body))
        for position in range(len(body)):
            await self._clock.sleep(self._answer.delay)
            await send({"type": "http.response.body", "body": body[position : position + 1], "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _cancel_on_leaving(receive: Receive, delivery: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    delivery.cancel()


async def _end_connection(transport: Transport | None, *, politely: bool) -> None:
    """End the connection, with FIN or with RST, and wait until the server notices."""
    if transport is not None and politely:
        transport.close()
    elif transport is not None:
        # Without lingering the kernel sends RST in place of FIN.
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        transport.abort()
    await anyio.sleep_forever()
