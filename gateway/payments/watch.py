"""Watching sessions: who holds a stream learns of a change within a second, whichever process made it.

One task a process reads the log of changes every 200 ms, while anybody watches, and reads those watched sessions that
changed. So the cost is one Redis command a tick, however many streams there are, and one for each session that
changed, however many watch it.

A session is read once more right after a watch of it opened, because it may have changed before the log was read for
it; and every 15 s, in case a change was never announced. While Redis is away, watches stay open and reading is tried
again at each tick.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import Context

import structlog

from gateway.clock import Clock
from gateway.errors import StorageUnavailable
from gateway.payments.changes import Changes
from gateway.payments.session import Session
from gateway.payments.sessions import Sessions
from gateway.tasks import end
from gateway.telemetry.logs import frames_of

log = structlog.get_logger()

TICK = 0.2
"""Seconds between two looks at the log of changes."""
REREAD = 15.0
"""Seconds between two readings of every watched session, announced or not."""
MOST_READS = 16
"""Sessions read at once: a part of the commands that a process may have under way."""


class Watch:
    """One session as it is known here, shared by all streams of it in this process."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._news = asyncio.Event()
        self.holders = 0
        """Streams that have it open."""

    @property
    def session(self) -> Session:
        """Return the newest version known."""
        return self._session

    async def changed(self, version: int) -> Session:
        """Wait until a later version than `version` is known, and return the newest. May be cancelled at any time."""
        while self._session.version <= version:
            await self._news.wait()
        return self._session

    def show(self, session: Session) -> None:
        """Make `session` the one that is known, and wake who waits, unless a later version is known already."""
        if session.version > self._session.version:
            self._session = session
            self._news.set()
            self._news = asyncio.Event()


class Watches:
    """All watches of this process, and the task that keeps them up to date."""

    def __init__(self, sessions: Sessions, changes: Changes, *, clock: Clock) -> None:
        self._sessions = sessions
        self._changes = changes
        self._clock = clock
        self._watched: dict[str, Watch] = {}
        self._unread: set[str] = set()
        """Watched sessions of which there may be a later version."""
        self._keeper: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def open(self, session: Session) -> AsyncIterator[Watch]:
        """Watch a session that was just loaded; no change since then is missed. Opening waits for nothing."""
        watch = self._watched.setdefault(session.id, Watch(session))
        watch.holders += 1
        watch.show(session)
        self._unread.add(session.id)
        if self._keeper is None:
            # Not in the context of the request that happens to be the first: its record and trace are its own.
            self._keeper = asyncio.create_task(self._keep_up(), context=Context())
        try:
            yield watch
        finally:
            watch.holders -= 1
            if not watch.holders:
                del self._watched[session.id]
                self._unread.discard(session.id)

    async def close(self) -> None:
        """Stop reading; watches that are still open learn nothing any more."""
        await end(self._keeper)
        self._keeper = None

    async def _keep_up(self) -> None:
        """Read what is new until nobody watches."""
        cursor: int | None = None
        reread_at = self._clock.monotonic() + REREAD
        failing = False
        while self._watched:
            try:
                cursor = await self._note_changes(cursor)
                if self._clock.monotonic() >= reread_at:
                    self._unread.update(self._watched)
                    reread_at = self._clock.monotonic() + REREAD
                await self._read()
                failing = False
            except StorageUnavailable:
                pass  # the store tells of it; what is unread stays so until the next tick
            except Exception as error:  # whatever it is, it may pass, and streams must not fall silent
                if not failing:
                    _tell(error)
                failing = True
            await self._clock.sleep(TICK)
        self._keeper = None  # in one step with the look at `_watched`: the next watch starts another

    async def _note_changes(self, cursor: int | None) -> int:
        """Mark what changed after `cursor` as unread, and return where to read on."""
        if cursor is None:
            # Before any session is read, so that what changes after its reading is in the log after the cursor.
            return await self._changes.newest()
        news = await self._changes.after(cursor)
        self._unread.update(self._watched.keys() & news.session_ids if news.complete else self._watched)
        return news.cursor

    async def _read(self) -> None:
        """Read what is unread, some at once. What the store does not give stays unread."""
        failed: set[str] = set()
        async with asyncio.TaskGroup() as readers:
            for _ in range(min(MOST_READS, len(self._unread))):
                readers.create_task(self._read_some(failed))
        self._unread |= failed & self._watched.keys()

    async def _read_some(self, failed: set[str]) -> None:
        while self._unread:
            # Out of the set before it is read: who opens a watch meanwhile has it read again.
            session_id = self._unread.pop()
            try:
                session = await self._sessions.get(session_id)
            except StorageUnavailable:
                failed.add(session_id)
                continue
            except Exception as error:  # one that cannot be read must not keep the others from it
                _tell(error)
                continue
            watch = self._watched.get(session_id)
            if session is not None and watch is not None:
                watch.show(session)


def _tell(error: Exception) -> None:
    log.error("watching failed", error=type(error).__name__, frames=frames_of(error))
