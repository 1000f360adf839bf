"""Who may create under an `Idempotency-Key`, and the answer that everybody else gets (interface §3.5).

A key is claimed (`claims.py`) by the first request that has it, and completed with that request's answer. For each key
at most one answer is shown in 24 hours.
"""

from contextlib import suppress
from dataclasses import dataclass

from gateway.clock import Clock
from gateway.errors import IdempotencyInProgress, IdempotencyKeyReused, StorageUnavailable
from gateway.store.claims import RETRY_AFTER, Claims, Held, Ownership, Stored
from gateway.store.redis import Store
from gateway.telemetry.metrics import Metrics

KEPT = 24 * 60 * 60
"""Seconds that an answer is replayed, from when it was stored; a replay does not prolong it."""
MOST_BODY = 64 * 1024
"""Bytes of the largest body that is stored."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A success as it was first shown, replayed byte for byte."""

    body: bytes
    """UTF-8, at most `MOST_BODY` bytes."""
    location: str
    """The value of the `Location` header: ASCII, on one line."""


class Claim:
    """An owner's hold on a key, made only by `Idempotency.claim`. It ends by itself; until then nobody else owns it."""

    def __init__(self, ownership: Ownership[Answer], *, metrics: Metrics) -> None:
        self._ownership = ownership
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
        fingerprint = self._ownership.fingerprint
        found = await self._ownership.complete(answer)
        if found == Stored(fingerprint, answer):  # stored now, or by the same command when it was sent before
            self._count("completed")
            return answer
        self._count("lost")
        match found:
            case None:
                raise StorageUnavailable(retry_after=RETRY_AFTER, outcome="unknown")
            case other if other.fingerprint != fingerprint:
                raise IdempotencyKeyReused(outcome="unknown")
            case Held():
                raise IdempotencyInProgress(retry_after=RETRY_AFTER, outcome="unknown")
            case Stored(result=shown):
                return shown

    async def release(self) -> None:
        """Free the key, if this claim still holds it. Without Redis the claim frees itself at the end of its hold."""
        with suppress(StorageUnavailable):
            if await self._ownership.release():
                self._count("released")

    def _count(self, result: str) -> None:
        self._metrics.idempotency.labels(result=result).inc()


class Idempotency:
    """Hands out claims on idempotency keys, and the answers stored under them."""

    def __init__(self, store: Store, *, clock: Clock, metrics: Metrics, hold: float) -> None:
        """`hold`: seconds that a claim lives. It must outlast whatever its owner does, deadline and all."""
        self._claims = Claims(
            store, prefix="qpg:idempotency", hold=hold, kept=KEPT, encode=_encode, decode=_decode, clock=clock
        )
        self._metrics = metrics

    async def claim(self, client_id: str, key: str, fingerprint: str) -> Claim | Answer:
        """Claim `key` for one request, or return the answer that an equal request got before.

        `fingerprint` is a hex digest of what the request means. Raises `IdempotencyInProgress` if an equal request
        is under way, `IdempotencyKeyReused` if another one is or was, and `StorageUnavailable` with
        `outcome: not_sent` if Redis cannot say. If only Redis's reply was lost the key is held for nobody until
        `hold` ends.
        """
        match await self._claims.claim(client_id, key, fingerprint):
            case Ownership() as ownership:
                self._count("claimed")
                return Claim(ownership, metrics=self._metrics)
            case other if other.fingerprint != fingerprint:
                self._count("key-reused")
                raise IdempotencyKeyReused
            case Held():
                self._count("in-progress")
                raise IdempotencyInProgress(retry_after=RETRY_AFTER)
            case Stored(result=shown):
                self._count("replayed")
                return shown

    def _count(self, result: str) -> None:
        self._metrics.idempotency.labels(result=result).inc()


def _encode(answer: Answer) -> str:
    """Write `answer` so that it can be read back. Raises `ValueError` if it is not what `Answer` says."""
    if len(answer.body) > MOST_BODY:
        raise ValueError(f"an answer of {len(answer.body)} bytes is more than is stored")
    if not (answer.location.isascii() and answer.location.isprintable()):
        raise ValueError("a location is printable ASCII")
    return f"{answer.location}\n{answer.body.decode()}"


def _decode(text: str) -> Answer:
    location, newline, body = text.partition("\n")
    if not newline:
        raise ValueError("not an answer")
    return Answer(body.encode(), location)
