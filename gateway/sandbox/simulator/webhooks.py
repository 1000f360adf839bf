"""The webhooks that QuantaPay sends when a payment is completed, and the ways to have it send others (contract §8).

Like Boxcoin's: one attempt, no signature, redirects not followed, certificates not checked, the answer ignored.
"""

import asyncio
import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Self

import httpx
from pydantic import BaseModel, ConfigDict, Field, field_validator

from gateway.clock import Clock, utc
from gateway.sandbox.simulator.options import SimulatorOptions, WebhookForm, WebhookStatus, checked_webhook_url
from gateway.sandbox.simulator.php import Json, json_encode
from gateway.sandbox.simulator.state import Ledger, Row

CONNECT_SECONDS = 5.0
TOTAL_SECONDS = 7.0
RETRY_AFTER = 1.0
"""Seconds between two attempts, where there is more than one: made up."""
KEPT = 1_000

_EVERY = 0.05
"""Seconds between two looks at the ledger; real ones, whatever the world's clock says."""
_MOST_AT_ONCE = 50
_HEADERS = {"Content-Type": "application/json", "User-Agent": "simulated-quantapay"}
_NOTHING: Mapping[str, Json] = MappingProxyType({})
_NEW_IN_APRIL = ("biz_id", "type")
_ZEROS = re.compile(r"(\.[0-9]{2}[0-9]*?)0+")


class WebhookSettings(BaseModel):
    """Where webhooks go, and which."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    url: str | None = None
    """None: nowhere."""
    form: WebhookForm = "april"
    retries: Annotated[int, Field(ge=0, le=10)] = 0
    statuses: list[WebhookStatus] = ["C"]
    """A row that gets one of these is told of. What happens while there are none never is, as if a webhook got lost."""

    @field_validator("url")
    @classmethod
    def _can_be_called(cls, url: str | None) -> str | None:
        return None if url is None else checked_webhook_url(url)

    @classmethod
    def of(cls, options: SimulatorOptions) -> Self:
        """Return what the simulator starts with."""
        return cls(
            url=options.webhook_url,
            form=options.webhook_form,
            retries=options.webhook_retries,
            statuses=list(options.webhook_statuses),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SentWebhook:
    """One attempt, and what came of it."""

    transaction: Row
    """As it was sent."""
    sent_at: float
    """Unix seconds."""
    status: int | None
    """Of the answer; None: there was none."""
    error: str | None = None
    """Why there was none, as the name of an exception."""

    @property
    def was_taken(self) -> bool:
        """Whether the answer was one of success."""
        return self.status is not None and 200 <= self.status < 300  # noqa: PLR2004 - RFC 9110 §15.3

    def as_json(self) -> dict[str, Json]:
        """Return the attempt as the control API shows it; `sent_at` in RFC 3339, whole seconds. The key is left out."""
        return {
            "transaction": self.transaction,
            "sent_at": utc(self.sent_at).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "status": self.status,
            "error": self.error,
        }


class Webhooks:
    """Sends webhooks, and remembers the latest."""

    def __init__(self, ledger: Ledger, options: SimulatorOptions, clock: Clock) -> None:
        self._settings = WebhookSettings.of(options)
        self._due: deque[tuple[Row, str]] = deque()
        """Rows to tell of, and where."""
        self._ledger = ledger
        self._options = options
        self._clock = clock
        self._sent: deque[SentWebhook] = deque(maxlen=KEPT)
        self._places = asyncio.Semaphore(_MOST_AT_ONCE)

    @property
    def settings(self) -> WebhookSettings:
        """Where webhooks go from now on, and which."""
        return self._settings

    @settings.setter
    def settings(self, settings: WebhookSettings) -> None:
        self._notice()  # what has settled so far is for the settings of before
        self._settings = settings

    def sent(self) -> list[SentWebhook]:
        """Return the attempts, oldest first."""
        return list(self._sent)

    def clear(self) -> None:
        """Forget what was sent and what is due, and go back to the settings of the start."""
        self._sent.clear()
        self._due.clear()
        self._settings = WebhookSettings.of(self._options)

    async def run(self) -> None:
        """Send a webhook for each row that settles, until cancelled."""
        async with asyncio.TaskGroup() as sending:
            while True:
                self._notice()
                while self._due:
                    sending.create_task(self._deliver(*self._due.popleft()))
                await asyncio.sleep(_EVERY)

    async def send(self, row: Mapping[str, Json], url: str, *, override: Mapping[str, Json] = _NOTHING) -> SentWebhook:
        """Make one attempt: `row` in the form that is set, with the fields of `override` over it."""
        transaction = {**(_as_of_march(row) if self._settings.form == "march" else row), **override}
        key = self._options.webhook_secret.get_secret_value()
        body = json_encode({"key": key, "transaction": transaction})
        async with self._places:
            sent_at = self._clock.time()
            status, error = await _post(url, body)
        self._sent.append(SentWebhook(transaction=transaction, sent_at=sent_at, status=status, error=error))
        return self._sent[-1]

    def _notice(self) -> None:
        """Have those of the rows that settled be sent that are to be told of."""
        url = self._settings.url
        for row in self._ledger.take_settled():
            if url is not None and row["status"] in self._settings.statuses:
                self._due.append((row, url))

    async def _deliver(self, row: Row, url: str) -> None:
        for _ in range(self._settings.retries):
            if (await self.send(row, url)).was_taken:
                return
            await self._clock.sleep(RETRY_AFTER)
        await self.send(row, url)


async def _post(url: str, body: bytes) -> tuple[int | None, str | None]:
    """Return the answer's status or the error; a connection for each, as PHP makes it."""
    timeout = httpx.Timeout(TOTAL_SECONDS, connect=CONNECT_SECONDS)
    try:
        async with (
            asyncio.timeout(TOTAL_SECONDS),
            httpx.AsyncClient(timeout=timeout, verify=False, trust_env=False) as http,  # noqa: S501 # nosec B501
        ):
            return (await http.post(url, content=body, headers=_HEADERS)).status_code, None
    except (httpx.HTTPError, TimeoutError) as failure:
        return None, type(failure).__name__


def _as_of_march(row: Mapping[str, Json]) -> Row:
    """Turn a row into its form of 9 March (contract §8); which session it was is not known, so its id is made up."""
    older = {name: field for name, field in row.items() if name not in _NEW_IN_APRIL}
    return {
        **older,
        "title": row.get("title") or row.get("external_reference") or "",
        "amount_fiat": _ZEROS.sub(r"\1", str(row.get("amount_fiat", ""))),
        "external_reference": "",
        "vat": "",
        "checkout_id": row.get("checkout_id") or "cs-cs_00000000000000000000",
    }
