"""Checkout sessions in Redis: kept for 30 days, found by id and by reference, and moved by one process at a time.

A session's record is replaced as a whole, by whoever knows what is there (`sessions.lua`). So of processes that move
the same session at once each sees what the one before made of it, and the end is the same as one after the other.

| key | holds |
| --- | --- |
| `qpg:session:<id>` | a record (`codec.py`) |
| `qpg:reference:<sha256>` | a sorted set: the ids of an order id's sessions, scored by when they were made, Unix s |

A session can be found by its id from when it is created, and by its reference once it is published (ADR 0010).
"""

import hashlib
from collections.abc import Callable
from typing import Any

import structlog

from gateway.errors import StorageUnavailable
from gateway.payments.agenda import Agenda
from gateway.payments.changes import Changes
from gateway.payments.codec import decode, encode
from gateway.payments.session import Session
from gateway.store.redis import Script, Store
from gateway.telemetry.metrics import Metrics

log = structlog.get_logger()

KEPT = 30 * 24 * 60 * 60
"""Seconds that a session is kept from when it was created. Moving it does not prolong that."""
MOST_WITH_REFERENCE = 50
"""Sessions that can be found by one reference: the newest."""
RETRY_AFTER = 1
"""Seconds."""

_TURNS = 20
"""How often others may be quicker in moving a session. A handful of processes learn of the same payment."""


class Sessions:
    """The sessions of all clients.

    Everything here raises `StorageUnavailable` if Redis fails, and if it holds a value that is not ours: nobody knows
    what a customer was shown then.
    """

    def __init__(self, store: Store, *, changes: Changes, agenda: Agenda, metrics: Metrics) -> None:
        self._store = store
        self._changes = changes
        self._agenda = agenda
        self._metrics = metrics
        self._script = Script.load("gateway.payments", "sessions.lua")

    async def create(self, session: Session) -> None:
        """Store a new session, which nobody may be shown yet. It may be stored if this raises (`outcome: unknown`)."""
        try:
            await self._write(_record(session.id), "create", encode(session), KEPT * 1000)
        except StorageUnavailable:
            raise StorageUnavailable(retry_after=RETRY_AFTER, outcome="unknown") from None

    async def publish(self, session: Session) -> None:
        """Have payments matched to a session, which may be shown from now on; doing it again changes nothing.

        If this raises (`outcome: unknown`) the session must be published again before it is shown.
        """
        created = int(session.created_at.timestamp())
        index = _reference(session.order_id)
        try:
            # An entry that leads nowhere is harmless, but a session on the agenda is looked for by its reference.
            await self._write(index, "enter", session.id, created, MOST_WITH_REFERENCE, KEPT * 1000)
            await self._agenda.add(session)
        except StorageUnavailable:
            raise StorageUnavailable(retry_after=RETRY_AFTER, outcome="unknown") from None

    async def get(self, session_id: str) -> Session | None:
        """Return a session, or None if there is none."""
        key = _record(session_id)
        return _read(key, await self._look(key, "read"))

    async def with_reference(self, order_id: str) -> list[Session]:
        """Return the published sessions with a reference, byte for byte: the newest ones, newest first."""
        ids: list[bytes] = await self._look(_reference(order_id), "list")
        # An id that is not ours names no session, whatever becomes of its bytes.
        keys = [_record(session_id.decode(errors="replace")) for session_id in reversed(ids)]
        # One that cannot be read must not keep payments from all others.
        found = [await self._get_if_ours(key) for key in keys]
        return [session for session in found if session is not None and session.order_id == order_id]

    async def move(self, session_id: str, change: Callable[[Session], Session]) -> Session | None:
        """Replace a session by what `change` makes of it, and return it as it is then; None if there is none.

        `change` is called anew for each version that another process put there meanwhile, and returns an equal
        session if there is nothing to change. What it raises is raised. If this raises `StorageUnavailable` the
        session may have moved all the same; moving it again is right.
        """
        key = _record(session_id)
        there: bytes = await self._look(key, "read")
        for _ in range(_TURNS):
            session = _read(key, there)
            if session is None:
                return None
            changed = change(session)
            if changed == session:
                return session
            try:
                is_done, there = await self._write(key, "replace", there.decode(), encode(changed))
            except StorageUnavailable:
                await self._changes.announce(session_id)  # it may have moved
                raise
            if is_done:
                await self._changes.announce(session_id)
                if changed.status is not session.status:
                    self._metrics.checkout_sessions.labels(event=changed.status.value).inc()
                return changed
        log.warning("others move a session all the time", session_id=session_id)
        raise StorageUnavailable(retry_after=RETRY_AFTER)

    async def _get_if_ours(self, key: str) -> Session | None:
        status, value = await self._store.run(lambda redis: self._script(redis, [key], ["read"]))
        return _read_if_ours(key, value) if _is_of_our_kind(key, status) else None

    async def _look(self, key: str, verb: str) -> Any:  # noqa: ANN401 - a text or ids, as the verb has it
        _, found = _intact(key, await self._store.run(lambda redis: self._script(redis, [key], [verb])))
        return found

    async def _write(self, key: str, *args: str | int) -> tuple[bool, bytes]:
        """Run a verb that writes; return whether it did, and what is there if not."""
        return _intact(key, await self._store.write(self._script, [key], args))


def _record(session_id: str) -> str:
    return f"qpg:session:{session_id}"


def _reference(order_id: str) -> str:
    # Other people's data, of any length: its digest names the key. A payer can have put half a surrogate pair there.
    digest = hashlib.sha256(order_id.encode(errors="surrogatepass")).hexdigest()
    return f"qpg:reference:{digest[:32]}"


def _intact(key: str, reply: tuple[int, Any]) -> tuple[bool, Any]:
    """Return what `sessions.lua` did and found, unless that is of a kind that nobody writes there."""
    status, found = reply
    if not _is_of_our_kind(key, status):
        raise StorageUnavailable(retry_after=RETRY_AFTER)
    return status == 1, found


def _is_of_our_kind(key: str, status: int) -> bool:
    if status < 0:
        log.error("a value of another kind lies where sessions are kept, refusing it", key=key)
    return status >= 0


def _read(key: str, value: bytes) -> Session | None:
    session = _read_if_ours(key, value)
    if session is None and value:
        raise StorageUnavailable(retry_after=RETRY_AFTER)
    return session


def _read_if_ours(key: str, value: bytes) -> Session | None:
    try:
        return decode(value.decode()) if value else None
    except ValueError:
        log.error("a session's record is not ours, or of another version, refusing it", key=key)  # noqa: TRY400 - its text can hold the value
        return None
