"""Which sessions are open, and when each is to be looked at next: shared by all processes (interface §3.8).

A session is due 10 s after it was published, then every 10 s, and once it is older than ten minutes after each
sixtieth of its age; the last time is 48 h after it was made. One sweep sees to all that are due. A lease lets
one process sweep at a time, and none sooner than 10 s after the sweep before, so that sessions made at different times
share a call to QuantaPay.

While Redis is away no session is looked at. If it loses these keys, the sessions on the agenda are looked at no more:
only what QuantaPay sends by itself moves them then.
"""

from dataclasses import dataclass
from datetime import datetime

from gateway.clock import Clock, utc
from gateway.payments.session import Session
from gateway.store.redis import Script, Store

KEY = "qpg:{sessions}:open"
LEASE_KEY = "qpg:{sessions}:sweep"
"""`agenda.lua` says what both hold."""

_PORTIONS = 10
"""Of sessions, in which a turn's 10,000 are advanced."""


@dataclass(frozen=True, slots=True)
class Turn:
    """The right to see to the sessions that are due, at most 10,000, for 30 s at most."""

    token: str
    started: int
    """Milliseconds of Redis's clock."""
    oldest: datetime
    """When the oldest of the sessions due was made."""


class Agenda:
    """The open sessions, each due at its time. Everything here raises `StorageUnavailable`."""

    def __init__(self, store: Store, *, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._script = Script.load("gateway.payments", "agenda.lua")

    async def add(self, session: Session) -> None:
        """Put an open session on the agenda; nothing changes if it is there, or too old."""
        created = int(session.created_at.timestamp())
        await self._store.write(self._script, [KEY, LEASE_KEY], ["add", created, session.id])

    async def remove(self, session: Session) -> None:
        """Take a session off the agenda that nobody need look at any more: its status is final."""
        member = f"{int(session.created_at.timestamp())}:{session.id}"
        await self._store.run(lambda redis: redis.zrem(KEY, member))

    async def take_due(self) -> Turn | None:
        """Return a turn if any session is due and no other process has had one in the last 10 s.

        One small command, which writes nothing while no session is due. Follow it with `advance`, if all was
        looked at, and in any case with `release`. If neither happens, the next turn is taken after 30 s.
        """
        token = self._clock.token_hex(8)
        reply = await self._run("take", token)
        if not reply:
            return None
        started, oldest = reply
        return Turn(token, started, oldest=utc(oldest))

    async def advance(self, turn: Turn) -> None:
        """Have the sessions that were due wait for their next time, or leave the agenda after 48 h."""
        for _ in range(_PORTIONS):
            [has_more] = await self._run("advance", turn.started)
            if not has_more:
                return

    async def hasten(self) -> None:
        """Have every session on the agenda be due now. It is seen to in the next turns, and leaves when it would have.

        What was hastened stays due if this raises; hastening again sees to the rest.
        """
        has_more = 1
        while has_more:
            [has_more] = await self._run("hasten")

    async def release(self, turn: Turn) -> None:
        """Let others have the next turn, 10 s after this one began. What was not advanced is due then."""
        await self._run("release", turn.token, turn.started)

    async def _run(self, *args: str | int) -> list[int]:
        reply: list[int] = await self._store.run(lambda redis: self._script(redis, [KEY, LEASE_KEY], args))
        return reply
