"""One owner at a time for each name, and what it made kept for everybody else.

Under one Redis key for each client and name lies, one after the other:

    nothing ──claim──▶ a claim (fingerprint, owner's token) ──complete──▶ a result (fingerprint, whatever it is)
       ▲                  │ release, or its hold ends                        │ kept for some time
       └──────────────────┴──────────────────────────────────────────────────┘

Every arrow is one compare-and-swap (`claims.lua`), so of several owners only the one whose claim still lies there
completes. The others find what lies there instead, and must not show what they made. So for each name at most one
result is shown while it is kept. The fingerprint says what was asked for under the name.

A frozen Redis runs a command when it thaws, long after its sender has given up. A claim set then would block the key
for nothing, so a claim says until when it may be set, on the server's own clock: the time in the server's last reply,
plus what the sender waits. That reply is older than the command, so this errs towards doing nothing. A reply
to somebody else of this process will do, if it came no longer ago than a sender waits, since what is later than that is
too late anyway. Otherwise, and in a cluster, where each node has its own clock, the first turn only asks.

A late completion needs no such limit: it does nothing unless its claim is still there, and then nobody else can have
shown a result.
"""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

import structlog

from gateway.clock import Clock
from gateway.errors import Outcome, StorageUnavailable
from gateway.store.redis import Script, Store

log = structlog.get_logger()

RETRY_AFTER = 1
"""Seconds. What is claimed takes about one, and an outage that short is over."""

_VERSION = "1"
"""Of the values' format. A value of another version is not ours to judge: the key is refused until it expires."""
_TURNS = 3
"""Asking the server's time, if no reply told of it just now; claiming; and claiming again if that came too late."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Held:
    """What lies under a name whose owner is at work."""

    fingerprint: str
    token: str
    """Names the owner."""


@dataclass(frozen=True, slots=True)
class Stored(Generic[T]):
    """What lies under a name that has its result."""

    fingerprint: str
    result: T


Record: TypeAlias = Held | Stored[T]


class Ownership(Generic[T]):
    """A name that is the caller's, made only by `Claims.claim`. It ends by itself; until then nobody else owns it."""

    def __init__(self, records: "_Records[T]", key: str, held: Held, *, kept: float) -> None:
        self._records = records
        self._key = key
        self._held = held
        self._kept = kept

    async def complete(self, result: T) -> Record[T] | None:
        """Store `result`, and return what lies under the name now; None if that is nothing.

        `Stored` with this ownership's fingerprint and an equal result: it may be shown. Anything else: the claim was
        lost, and `result` is stored nowhere. Raises `StorageUnavailable` with `outcome: unknown` if Redis failed:
        it may be stored, but must not be shown.
        """
        swap = await self._records.swap(
            self._key,
            expected=self._held,
            new=Stored(self._held.fingerprint, result),
            lives=self._kept,
            not_after=None,
            outcome="unknown",
        )
        return swap.record

    async def release(self) -> bool:
        """Free the name, and tell whether it was still owned. Raises `StorageUnavailable` with `outcome: unknown`."""
        swap = await self._records.swap(
            self._key, expected=self._held, new=None, lives=0, not_after=None, outcome="unknown"
        )
        return swap.done

    @property
    def fingerprint(self) -> str:
        """What the name was claimed for."""
        return self._held.fingerprint


class Claims(Generic[T]):
    """Hands out names of one kind, and the results that are kept under them."""

    def __init__(
        self,
        store: Store,
        *,
        prefix: str,
        hold: float,
        kept: float,
        encode: Callable[[T], str],
        decode: Callable[[str], T],
        clock: Clock,
    ) -> None:
        """Keys are `<prefix>:<client>:<sha256>`.

        `hold`: seconds that a claim lives; it must outlast whatever its owner does, deadline and all. `kept`: seconds
        that a result lives from when it was stored; asking for it does not prolong that. `decode` reads what `encode`
        wrote, and raises `ValueError` for anything else.
        """
        self._records = _Records(store, encode, decode, clock)
        self._prefix = prefix
        self._hold = hold
        self._kept = kept
        self._clock = clock

    async def claim(self, client_id: str, name: str, fingerprint: str) -> Ownership[T] | Record[T]:
        """Own `name` for one request of a client, or return what lies there: another's claim, or the result.

        `fingerprint` is a hex digest of what the request asks for. Raises `StorageUnavailable` with
        `outcome: not_sent` if Redis cannot say. If only Redis's reply was lost the name is held for nobody until
        the hold ends.
        """
        # Names are other people's data, of any length: their digest names the key.
        key = f"{self._prefix}:{client_id}:{hashlib.sha256(name.encode()).hexdigest()[:32]}"
        held = Held(fingerprint, token=self._clock.token_hex(16))
        not_after = self._records.not_after()
        for _ in range(_TURNS):
            swap = await self._records.swap(
                key, expected=None, new=held, lives=self._hold, not_after=not_after, outcome="not_sent"
            )
            if swap.record == held:  # claimed now, or by the same command when it was sent before
                return Ownership(self._records, key, held, kept=self._kept)
            if swap.record is not None:
                return swap.record
            not_after = self._records.not_after(swap.time)
        raise StorageUnavailable(retry_after=RETRY_AFTER, outcome="not_sent")


@dataclass(frozen=True, slots=True)
class _Swap(Generic[T]):
    """What a compare-and-swap came to."""

    time: int
    """The server's time when it ran, in microseconds."""
    done: bool
    record: Record[T] | None
    """What the key holds now. None after a swap that was not done: the key was free, but it was too late."""


class _Records(Generic[T]):
    """The values in Redis, each replaced only by who knows what it is."""

    def __init__(self, store: Store, encode: Callable[[T], str], decode: Callable[[str], T], clock: Clock) -> None:
        self._store = store
        self._encode_result = encode
        self._decode_result = decode
        self._clock = clock
        self._script = Script.load("gateway.store", "claims.lua")
        self._told = 0
        """The server's time in the last reply, and below when that came."""
        self._told_at = -math.inf

    def not_after(self, told: int | None = None) -> int:
        """Return until when a claim may be set that is sent now, in microseconds of the server's clock.

        `told`: the server's time, if the caller knows it. Without it that of the last reply counts, and long ago if
        that is no help any more.
        """
        if told is None:
            if self._store.is_cluster or self._clock.monotonic() - self._told_at > self._store.deadline:
                return 0
            told = self._told
        return told + round(self._store.deadline * 1_000_000)

    async def swap(
        self,
        key: str,
        *,
        expected: Record[T] | None,
        new: Record[T] | None,
        lives: float,
        not_after: int | None,
        outcome: Outcome,
    ) -> _Swap[T]:
        """Replace `expected` by `new`, None meaning no value, for `lives` seconds.

        Nothing is replaced after `not_after`, in microseconds of the server's clock. Raises `StorageUnavailable` with
        `outcome` if Redis failed, or if the key holds a value that is not ours: nobody knows what was shown for it.
        """
        args: list[str | int] = [
            self._encode(expected),
            self._encode(new),
            round(lives * 1000),
            "" if not_after is None else not_after,
        ]
        try:
            time, done, in_the_way = await self._store.write(self._script, [key], args)
        except StorageUnavailable:
            raise StorageUnavailable(retry_after=RETRY_AFTER, outcome=outcome) from None
        self._told, self._told_at = time, self._clock.monotonic()
        if done:
            return _Swap(time, done=True, record=new)
        try:
            return _Swap(time, done=False, record=self._decode(in_the_way) if in_the_way else None)
        except ValueError:
            log.error("a value under a claimed name is not ours, refusing the name", key=key)  # noqa: TRY400 - its text holds the value
        raise StorageUnavailable(retry_after=RETRY_AFTER, outcome=outcome)

    def _encode(self, record: Record[T] | None) -> str:
        match record:
            case None:
                return ""
            case Held(fingerprint=fingerprint, token=token):
                return "\n".join((_VERSION, "held", fingerprint, token))
            case Stored(fingerprint=fingerprint, result=result):
                return "\n".join((_VERSION, "stored", fingerprint, self._encode_result(result)))

    def _decode(self, value: bytes) -> Record[T]:
        """Read what `_encode` wrote. Raises `ValueError` for anything else."""
        match value.decode().split("\n", maxsplit=3):
            case [version, "held", fingerprint, token] if version == _VERSION and "\n" not in token:
                return Held(fingerprint, token)
            case [version, "stored", fingerprint, result] if version == _VERSION:
                return Stored(fingerprint, self._decode_result(result))
        raise ValueError("not a value of ours")
