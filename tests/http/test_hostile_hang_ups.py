"""Callers that reset their connections while a stream begins, under uvloop."""

import socket
import struct
import time

import httpx

from tests.plugins.gateway import ORDERS_KEY


def test_who_hangs_up_as_a_stream_begins_leaves_no_error_of_the_event_loop(start_gateway):
    gateway = start_gateway()
    key = {"Authorization": f"Bearer {ORDERS_KEY}"}
    order = {"price": "1.00", "currency": "usd"}
    session = httpx.post(f"{gateway.url}/checkout-sessions", headers=key, json=order).json()
    watch = (
        f"GET /checkout-sessions/{session['id']}/events HTTP/1.1\r\nHost: x\r\n"
        f"Authorization: Bearer {ORDERS_KEY}\r\n\r\n"
    ).encode()
    for number in range(60):
        with socket.create_connection(("127.0.0.1", gateway.port)) as caller:
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            caller.sendall(watch * (1 + number % 3))
            time.sleep(0.0005 * (number % 7))
    time.sleep(0.5)
    assert [line["error"] for line in gateway.lines() if line.get("logger") == "asyncio"] == []
