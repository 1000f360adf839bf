"""Who may create under an `Idempotency-Key`, and the answer that everybody else gets (interface §3.5).

Under one Redis key for each client and idempotency key lies, one after the other:

    nothing ──claim──▶ a claim (fingerprint, owner's token) ──complete──▶ an answer (fingerprint, body, location)
       ▲                  │ release, or its hold ends                        │ 24 hours
       └──────────────────┴──────────────────────────────────────────────────┘

Every arrow is one compare-and-swap (`idempotency.lua`), so of several owners only the one whose claim still lies
there completes. The others show what they find, never their own. For each key at most one answer is shown in 24 hours.

A frozen Redis runs a command when it thaws, long after its sender has given up. A claim set then would block the key
for nothing, so a claim says until when it may be set, on the server's own clock: the time in the server's last reply,
plus what the sender waits. That reply is older than the command, so this errs towards doing nothing. The
clock is asked for every claim anew, and not learned: claims are few, and each node of a cluster has its own.

A late completion needs no such limit: it does nothing unless its claim is still there, and then nobody else can have
shown an answer.
"""

import hashlib
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeAlias

import structlog

from gateway.clock import Clock
from gateway.errors import IdempotencyInProgress, IdempotencyKeyReused, Outcome, StorageUnavailable
from gateway.store.client import DEADLINE
from gateway.store.redis import Script, Store
from gateway.telemetry.metrics import Metrics

log = structlog.get_logger()

KEPT = 24 * 60 * 60
"""Seconds that an answer is replayed, from when it was stored; a replay does not prolong it."""
MOST_BODY = 64 * 1024
"""Bytes of the largest body that is stored."""
RETRY_AFTER = 1
"""Seconds. A create takes about one, and an outage that short is over."""

_VERSION = "1"
"""Of the values' format. A value of another version is not ours to judge: the key is refused until it expires."""
_TURNS = 3
"""Asking the server's time; claiming; and claiming again if that came too late after all."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A success as it was first shown, replayed byte for byte."""

    body: bytes
    """UTF-8, at most `MOST_BODY` bytes."""
    location: str
    """The value of the `Location` header: ASCII, on one line."""


class Claim:
    """An owner's hold on a key, made only by `Idempotency.claim`. It ends by itself; until then nobody else owns it."""

    def __init__(self, records: "_Records", key: str, held: "_Held", *, metrics: Metrics) -> None:
        self._records = records
        self._key = key
        self._held = held
        self._metrics = metrics

    async def complete(self, answer: Answer) -> Answer:
        """Store `answer` for 24 hours and return what may be shown: `answer` itself, or another owner's.

        Raises, all with `outcome: unknown` and in no case showing `answer`:

        - `StorageUnavailable` if Redis failed (it may be stored: then a retry replays it), or if the claim was lost
          and nobody else has the key;
        - `IdempotencyInProgress` if the claim was lost and another owner is at it;
        - `IdempotencyKeyReused` if the claim was lost to a request with another fingerprint.

        Raises `ValueError`, and stores nothing, if `answer` is not what `Answer` says.
        """
        stored = _Stored(self._held.fingerprint, _storable(answer))
        swap = await self._records.swap(
            self._key, expected=self._held, new=stored, lives=KEPT, not_after=None, outcome="unknown"
        )
        if swap.record == stored:  # swapped now, or by the same command when it was sent before
            self._count("completed")
            return answer
        self._count("lost")
        match swap.record:
            case None:
                raise StorageUnavailable(retry_after=RETRY_AFTER, outcome="unknown")
            case other if other.fingerprint != self._held.fingerprint:
                raise IdempotencyKeyReused(outcome="unknown")
            case _Held():
                raise IdempotencyInProgress(retry_after=RETRY_AFTER, outcome="unknown")
            case _Stored(answer=shown):
                return shown

    async def release(self) -> None:
        """Free the key, if this claim still holds it. Without Redis the claim frees itself at the end of its hold."""
        with suppress(StorageUnavailable):
            swap = await self._records.swap(
                self._key, expected=self._held, new=None, lives=0, not_after=None, outcome="unknown"
            )
            if swap.done:
                self._count("released")

    def _count(self, result: str) -> None:
        self._metrics.idempotency.labels(result=result).inc()


class Idempotency:
    """Hands out claims on idempotency keys, and the answers stored under them."""

    def __init__(self, store: Store, *, clock: Clock, metrics: Metrics, hold: float) -> None:
        """`hold`: seconds that a claim lives. It must outlast whatever its owner does, deadline and all."""
        self._records = _Records(store)
        self._clock = clock
        self._metrics = metrics
        self._hold = hold

    async def claim(self, client_id: str, key: str, fingerprint: str) -> Claim | Answer:
        """Claim `key` for one request, or return the answer that an equal request got before.

        `fingerprint` is a hex digest of what the request means. Raises `IdempotencyInProgress` if an equal request
        is under way, `IdempotencyKeyReused` if another one is or was, and `StorageUnavailable` with
        `outcome: not_sent` if Redis cannot say. If only Redis's reply was lost the key is held for nobody until
        `hold` ends.
        """
        redis_key = f"qpg:idempotency:{client_id}:{hashlib.sha256(key.encode()).hexdigest()[:32]}"
        held = _Held(fingerprint, token=self._clock.token_hex(16))
        not_after = 0  # long ago: the first turn only looks
        for _ in range(_TURNS):
            swap = await self._records.swap(
                redis_key, expected=None, new=held, lives=self._hold, not_after=not_after, outcome="not_sent"
            )
            match swap.record:
                case None:
                    not_after = swap.time + round(DEADLINE * 1_000_000)
                case own if own == held:  # claimed now, or by the same command when it was sent before
                    self._count("claimed")
                    return Claim(self._records, redis_key, held, metrics=self._metrics)
                case other if other.fingerprint != fingerprint:
                    self._count("key-reused")
                    raise IdempotencyKeyReused
                case _Held():
                    self._count("in-progress")
                    raise IdempotencyInProgress(retry_after=RETRY_AFTER)
                case _Stored(answer=shown):
                    self._count("replayed")
                    return shown
        raise StorageUnavailable(retry_after=RETRY_AFTER, outcome="not_sent")

    def _count(self, result: str) -> None:
        self._metrics.idempotency.labels(result=result).inc()


@dataclass(frozen=True, slots=True)
class _Held:
    """The value of a key whose owner is at work."""

    fingerprint: str
    token: str

    def encode(self) -> str:
        return "\n".join((_VERSION, "held", self.fingerprint, self.token))


@dataclass(frozen=True, slots=True)
class _Stored:
    """The value of a key that has its answer."""

    fingerprint: str
    answer: Answer

    def encode(self) -> str:
        return "\n".join((_VERSION, "stored", self.fingerprint, self.answer.location, self.answer.body.decode()))


_Record: TypeAlias = _Held | _Stored


def _decode(value: bytes) -> _Record:
    """Read what `encode` wrote. Raises `ValueError` for anything else."""
    match value.decode().split("\n", maxsplit=4):
        case [version, "held", fingerprint, token] if version == _VERSION:
            return _Held(fingerprint, token)
        case [version, "stored", fingerprint, location, body] if version == _VERSION:
            return _Stored(fingerprint, Answer(body.encode(), location))
    raise ValueError("not a value of ours")


def _storable(answer: Answer) -> Answer:
    """Return `answer` if it can be stored and read back. Raises `ValueError` if not."""
    if len(answer.body) > MOST_BODY:
        raise ValueError(f"an answer of {len(answer.body)} bytes is more than is stored")
    if not (answer.location.isascii() and answer.location.isprintable()):
        raise ValueError("a location is printable ASCII")
    answer.body.decode()
    return answer


@dataclass(frozen=True, slots=True)
class _Swap:
    """What a compare-and-swap came to."""

    time: int
    """The server's time when it ran, in microseconds."""
    done: bool
    record: _Record | None
    """What the key holds now. None after a swap that was not done: the key was free, but it was too late."""


class _Records:
    """The values in Redis, each replaced only by who knows what it is."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._script = Script.load("gateway.store", "idempotency.lua")

    async def swap(
        self,
        key: str,
        *,
        expected: _Record | None,
        new: _Record | None,
        lives: float,
        not_after: int | None,
        outcome: Outcome,
    ) -> _Swap:
        """Replace `expected` by `new`, None meaning no value, for `lives` seconds.

        Nothing is replaced after `not_after`, in microseconds of the server's clock. Raises `StorageUnavailable` with
        `outcome` if Redis failed, or if the key holds a value that is not ours: nobody knows what was shown for it.
        """
        args: list[str | int] = [
            expected.encode() if expected else "",
            new.encode() if new else "",
            round(lives * 1000),
            "" if not_after is None else not_after,
        ]
        try:
            time, done, in_the_way = await self._store.write(self._script, [key], args)
        except StorageUnavailable:
            raise StorageUnavailable(retry_after=RETRY_AFTER, outcome=outcome) from None
        if done:
            return _Swap(time, done=True, record=new)
        try:
            return _Swap(time, done=False, record=_decode(in_the_way) if in_the_way else None)
        except ValueError:
            log.error("a value under an idempotency key is not ours, refusing the key", key=key)  # noqa: TRY400 - its text holds the value
        raise StorageUnavailable(retry_after=RETRY_AFTER, outcome=outcome)
