"""QuantaPay as nothing but answers, so that it is never what a benchmark waits for.

    python -m tests.bench.upstream PORT

It checks no key and keeps nothing. It understands what the gateway and the peers send: a form with its length.
"""

import asyncio
import json
import sys
from datetime import UTC, datetime
from urllib.parse import parse_qsl

import uvloop

from tests.bench.webhook_intake import row

ANSWERS: dict[str, object] = {
    "create-checkout-session": {"payment_url": "http://127.0.0.1/pay.php?checkout_id=cs-1"},
    "get-balances": {"btc": {"amount": "1.5", "fiat": "97275.38"}},
    "get-exchange-rates": "64850.25",
    "get-transactions": [],
}
ANY_OTHER = {"fee": "0.00012", "cryptocurrency": "btc"}
"""For functions that only `POST /functions/{function}` calls."""


def wire(response: object) -> bytes:
    """Return an answer with this `response`, as bytes on the wire."""
    body = json.dumps({"success": True, "response": response}).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=UTF-8\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


WIRE = {function: wire(response) for function, response in ANSWERS.items()}
WIRE_OF_ANY_OTHER = wire(ANY_OTHER)


def answer_to(form: bytes) -> bytes:
    """Return what a call is answered with; a transaction is what its webhook told of, made now."""
    fields = dict(parse_qsl(form.decode("ascii")))
    function = fields.get("function", "")
    if function == "get-transaction":
        now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
        return wire({**row(fields["transaction_id"]), "creation_time": now})
    return WIRE.get(function, WIRE_OF_ANY_OTHER)


class Connection(asyncio.Protocol):
    """Answers one request after the other."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._got = b""

    def data_received(self, data: bytes) -> None:
        self._got += data
        head, ended, rest = self._got.partition(b"\r\n\r\n")
        if not ended:
            return
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
        if len(rest) >= length:
            self._got = rest[length:]
            self._transport.write(answer_to(rest[:length]))


async def serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
