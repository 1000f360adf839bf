"""What every request may use: the services of the process."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from gateway.access.keys import Keyring
from gateway.access.limits import RateLimiter
from gateway.access.origins import Origins
from gateway.access.streams import StreamSlots
from gateway.clock import Clock
from gateway.config import Config
from gateway.lifecycle import Lifecycle
from gateway.payments.checkout import Checkout
from gateway.payments.sessions import Sessions
from gateway.payments.watch import Watches
from gateway.quantapay.client import QuantaPay
from gateway.settings.values import Network
from gateway.store.cache import Cache
from gateway.store.idempotency import Idempotency
from gateway.telemetry.business import Holdings
from gateway.webhooks.receive import Receiver


@dataclass(slots=True)
class Services:
    """Everything that requests share. Made by `gateway.app`; `config`, `keyring` and `origins` follow gateway.yaml."""

    account: str
    """Names the merchant's account in cache keys."""
    cache: Cache
    checkout: Checkout
    clock: Clock
    config: Config
    holdings: Holdings
    idempotency: Idempotency
    keyring: Keyring
    lifecycle: Lifecycle
    limiter: RateLimiter
    origins: Origins
    public_url: str
    """What links start with; empty makes them relative."""
    quantapay: QuantaPay
    receiver: Receiver
    sessions: Sessions
    slots: StreamSlots
    trusted_proxies: Sequence[Network]
    """Whose `X-Forwarded-For` is believed."""
    watches: Watches


async def services(request: Request) -> Services:
    """Return the services of the application that got the request. FastAPI would hand a plain function to a thread."""
    found: Services = request.app.state.services
    return found


ServicesDependency = Annotated[Services, Depends(services)]
