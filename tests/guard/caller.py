"""Sends requests straight into an application, as uvicorn would hand them on."""

import asyncio
import itertools
import sys
from collections import Counter
from collections.abc import Mapping, MutableMapping
from typing import Any

from starlette.types import ASGIApp

from tests.bench.wrk import CONNECTIONS, Requests

PATIENCE = 300.0
"""Seconds for one wave: under valgrind everything is slow."""

_numbers = itertools.count(1)


class Caller:
    """Sends one kind of request, `<number>` in its texts another each time."""

    def __init__(self, app: ASGIApp, requests: Requests) -> None:
        self._app = app
        self._requests = requests

    async def send(self, waves: int) -> Counter[int]:
        """Send waves of as many requests as the benchmark has connections; return how often each status came.

        A wave begins when the one before is answered. If each caller went on by itself, who waits for Redis together
        with whom would differ from run to run, and with it what each waiting costs.
        """
        statuses: Counter[int] = Counter()
        for _ in range(waves):
            async with asyncio.timeout(PATIENCE):
                statuses.update(await asyncio.gather(*(self._send_one() for _ in range(CONNECTIONS))))
        return statuses

    async def _send_one(self) -> int:
        number = f"{next(_numbers) % (self._requests.among or sys.maxsize):010d}"
        body = (self._requests.body or "").replace("<number>", number).encode()
        status = 0

        async def receive() -> Mapping[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            status = message.get("status", status)

        await self._app(self._scope(number, len(body)), receive, send)
        return status

    def _scope(self, number: str, length: int) -> dict[str, Any]:
        path, _, query = self._requests.path.partition("?")
        headers = {"Host": "127.0.0.1:8080", **self._requests.headers}
        if length:
            headers["Content-Length"] = str(length)
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "server": ("127.0.0.1", 8080),
            "client": ("127.0.0.1", 50000),
            "scheme": "http",
            "method": self._requests.method,
            "root_path": "",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": [
                (name.lower().encode(), text.replace("<number>", number).encode()) for name, text in headers.items()
            ],
            "state": {},
        }
