"""A TCP proxy that misbehaves on demand, to stand between the gateway and QuantaPay, or the gateway and Redis.

One fault is on at a time, for as long as a test wants. It concerns connections that are open already as well as
new ones: it strikes in the middle of what is under way, or at the next *exchange*, which is what the client sends
and all that comes back until it sends again (a request on a kept connection, a command of Redis). Dice are thrown
once for each new connection and each later exchange on it.
"""

import asyncio
import socket
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from anyio.from_thread import BlockingPortal, start_blocking_portal

from tests.plugins.chaos_faults import Counters, Fault, Kind, Mischief
from tests.plugins.chaos_session import Session

LOOPBACK = "127.0.0.1"
_BACKLOG = 256

ACCEPTING_TURNS = 5
"""Turns of the event loop after which a connection that was just being accepted is a session, and can be ended."""


class ChaosProxy:
    """The proxy as a test sees it: a context manager with a switch for each fault. Safe to use from any thread.

    `target` is a URL whose host and port count, or `unix:///path`. It may be set anew at any time: an exchange that
    has begun ends where it began, the next one goes to the new target, on the same client connection.
    """

    def __init__(self, target: str, *, seed: int = 0) -> None:
        self.target = target
        self.counters = Counters()
        self._seed = seed
        self._stack = ExitStack()
        self._portal: BlockingPortal
        self._listener: _Listener

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._portal = stack.enter_context(start_blocking_portal("asyncio"))
            self._listener = self._portal.call(self._make_listener)
            stack.callback(self._portal.call, self._listener.close)
            self._portal.call(self._listener.open)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _make_listener(self) -> "_Listener":
        return _Listener(self, Mischief(self.counters, seed=self._seed))

    @property
    def port(self) -> int:
        """Where it listens, on loopback; the same for as long as it lives."""
        return self._listener.port

    def url(self, scheme: str) -> str:
        """Return where it listens, without a final slash."""
        return f"{scheme}://{LOOPBACK}:{self.port}"

    def latency(self, seconds: float, *, probability: float = 1.0) -> None:
        """Hold each answer back for so long."""
        self.turn_on(Fault(Kind.LATENCY, seconds=seconds, probability=probability))

    def reset(self, *, after_bytes: int | None = None, probability: float = 1.0) -> None:
        """End connections with RST: at once, or when so many bytes of an answer are through."""
        self.turn_on(Fault(Kind.RESET, after_bytes=after_bytes, probability=probability))

    def half_open(self, *, probability: float = 1.0) -> None:
        """Take what the client sends, answer nothing, close nothing. A connection that was struck stays so."""
        self.turn_on(Fault(Kind.HALF_OPEN, probability=probability))

    def cut(self, *, after_bytes: int, probability: float = 1.0) -> None:
        """End connections with FIN when so many bytes of an answer are through."""
        self.turn_on(Fault(Kind.CUT, after_bytes=after_bytes, probability=probability))

    def dribble(self, bytes_per_second: float, *, probability: float = 1.0) -> None:
        """Let answers through slowly, in small pieces."""
        self.turn_on(Fault(Kind.DRIBBLE, bytes_per_second=bytes_per_second, probability=probability))

    def refuse(self) -> None:
        """Behave as a server that has died: open connections are reset, new ones refused."""
        self.turn_on(Fault(Kind.REFUSE))

    def freeze(self) -> None:
        """Let nothing through in either direction, on any connection; what was held back goes on after `heal`."""
        self.turn_on(Fault(Kind.FREEZE))

    def turn_on(self, fault: Fault) -> None:
        """Misbehave in this way from now on, in place of any other."""
        self._portal.call(self._listener.turn, fault)

    def heal(self) -> None:
        """Behave from now on. Connections that were left half-open stay mute: the client has to give them up."""
        self._portal.call(self._listener.turn, None)


class _Listener:
    """The listening socket and the sessions that came of it, in the event loop of the proxy's thread."""

    def __init__(self, proxy: ChaosProxy, mischief: Mischief) -> None:
        self._proxy = proxy
        self._mischief = mischief
        # Bound but never listening: while nothing listens the port refuses connections, and nobody else can take it.
        self._place = _bound(port=0)
        self.port: int = self._place.getsockname()[1]
        self._server: asyncio.Server | None = None
        self._sessions: dict[asyncio.Task[None], Session] = {}
        self._bugs: list[BaseException] = []

    async def open(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, sock=_bound(self.port), backlog=_BACKLOG)

    async def turn(self, fault: Fault | None) -> None:
        self._mischief.turn(fault)
        if fault is not None and fault.kind is Kind.REFUSE:
            await self._shut()
        else:
            await self.open()

    async def close(self) -> None:
        await self._shut()
        self._place.close()
        if self._bugs:
            raise BaseExceptionGroup("the proxy itself failed", self._bugs)

    async def _shut(self) -> None:
        if self._server is not None:
            # A connection that is being accepted when a server closes is left open by asyncio (Python 3.11).
            for sock in self._server.sockets:
                asyncio.get_running_loop().remove_reader(sock.fileno())
            for _ in range(ACCEPTING_TURNS):
                await asyncio.sleep(0)
            self._server.close()
            self._server = None
        for session in self._sessions.values():
            session.kill()
        if self._sessions:
            await asyncio.wait(self._sessions)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        session = Session(
            reader,
            writer,
            target=lambda: self._proxy.target,
            mischief=self._mischief,
            counters=self._proxy.counters,
        )
        task = asyncio.create_task(session.run())
        self._sessions[task] = session
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        del self._sessions[task]
        if (bug := task.exception()) is not None:
            self._bugs.append(bug)


def _bound(port: int) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((LOOPBACK, port))
    return sock
