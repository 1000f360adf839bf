"""The one place where a gateway is built: every part made once, and handed to those that need it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import structlog
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.types import ASGIApp

from gateway.access.keys import Keyring
from gateway.access.limits import TracedLimiter
from gateway.access.limits_local import LocalLimiter
from gateway.access.limits_redis import RedisLimiter
from gateway.access.origins import Origins
from gateway.access.streams import StreamSlots
from gateway.clock import Clock, SystemClock
from gateway.config import Config, ConfigFault, ConfigFile, config_path
from gateway.http.services import Services
from gateway.lifecycle import Lifecycle
from gateway.payments.agenda import Agenda
from gateway.payments.changes import Changes
from gateway.payments.checkout import Checkout
from gateway.payments.sessions import Sessions
from gateway.payments.watch import Watches
from gateway.quantapay.account import account_id, endpoint_id
from gateway.quantapay.budget import SharedBudget
from gateway.quantapay.client import QuantaPay
from gateway.quantapay.credentials import RotatingSecret
from gateway.quantapay.endpoint import Transport
from gateway.quantapay.functions import FUNCTIONS
from gateway.quantapay.payment_urls import PaymentUrls, is_loopback
from gateway.quantapay.transport import HttpTransport
from gateway.routes.ops import create_ops_app
from gateway.routes.public import create_api, create_public_app
from gateway.settings import Settings
from gateway.store.cache import Cache, TracedCache
from gateway.store.client import DEADLINE, RedisClient
from gateway.store.idempotency import Idempotency
from gateway.store.membership import Membership
from gateway.store.orders import Orders, OrderSessions
from gateway.store.redis import Store
from gateway.telemetry.business import Holdings
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.spans import Tracer
from gateway.telemetry.status import Status
from gateway.webhooks.pipeline import Pipeline

log = structlog.get_logger()

CLAIM_OUTLIVES_DEADLINE = 5.0
"""Seconds that a claim is held beyond the deadline of the call it protects (interface §3.5)."""


class Gateway:
    """One process's gateway. Raises `ConfigurationError` if gateway.yaml is bad."""

    def __init__(
        self,
        settings: Settings,
        *,
        redis: RedisClient,
        redis_deadline: float = DEADLINE,
        environ: Mapping[str, str] | None = None,
        secrets_dir: Path | None = None,
        transport: Transport | None = None,
        clock: Clock | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        """Wire everything; nothing is connected or started yet.

        `redis_deadline`: seconds that a request waits for Redis. `environ` is what `${NAME}` in gateway.yaml may refer
        to, `secrets_dir` where its `${file:name}` lie.
        """
        self._settings = settings
        self._tracer = tracer
        clock = clock or SystemClock()
        self.metrics = Metrics()
        self.config = ConfigFile(
            config_path(settings),
            environ=environ or {},
            secrets_dir=secrets_dir,
            settings_secrets=settings.secrets(),
            clock=clock,
            on_reload=self._on_reload,
            on_change=self._on_change,
        )
        self.store = Store(redis, clock=clock, metrics=self.metrics, deadline=redis_deadline)
        self._membership = Membership(self.store, clock=clock, assumed=settings.replicas * settings.workers)
        self._budget = SharedBudget(
            self.store,
            quota=settings.quantapay_budget,
            account=endpoint_id(settings.quantapay_url),
            share=self._processes,
            clock=clock,
            metrics=self.metrics,
        )
        self._changes = Changes(self.store)
        self._agenda = Agenda(self.store, clock=clock)
        self._sessions = Sessions(self.store, changes=self._changes, agenda=self._agenda, metrics=self.metrics)
        self._quantapay = self._connect_quantapay(transport, clock)
        self._pipeline = Pipeline(
            self.store,
            quantapay=self._quantapay,
            sessions=self._sessions,
            agenda=self._agenda,
            keys=settings.webhook_secrets,
            budget=settings.quantapay_budget,
            deadline=settings.quantapay_timeout,
            processes=self._processes,
            config=lambda: self.config.current,
            clock=clock,
            metrics=self.metrics,
            tracer=tracer,
        )
        self.services = self._services(clock)
        self._newest_in_force = True
        self._name_functions(self.config.current)
        self.metrics.name_reads(function.name for function in FUNCTIONS if function.repeatable)

    def _services(self, clock: Clock) -> Services:
        settings, store, metrics = self._settings, self.store, self.metrics
        hold = settings.quantapay_timeout + CLAIM_OUTLIVES_DEADLINE
        cache = Cache if self._tracer is None else TracedCache
        limiter = RedisLimiter(store, LocalLimiter(clock, self._processes), clock=clock, metrics=metrics)
        return Services(
            account=account_id(settings.quantapay_url, _api_key(settings)),
            cache=cache(store, clock=clock, metrics=metrics, timeout=settings.quantapay_timeout),
            checkout=Checkout(
                orders=Orders(store),
                order_sessions=OrderSessions(store, clock=clock, hold=hold),
                sessions=self._sessions,
                quantapay=self._quantapay,
                timeout=settings.quantapay_timeout,
                clock=clock,
                metrics=metrics,
            ),
            clock=clock,
            config=self.config.current,
            holdings=Holdings(metrics=metrics, clock=clock),
            idempotency=Idempotency(store, clock=clock, metrics=metrics, hold=hold),
            keyring=Keyring(self.config.current.clients),
            lifecycle=Lifecycle(),
            limiter=limiter if self._tracer is None else TracedLimiter(limiter),
            origins=Origins(self.config.current.clients),
            public_url=settings.public_url or "",
            quantapay=self._quantapay,
            receiver=self._pipeline.receiver,
            sessions=self._sessions,
            slots=StreamSlots(store, clock=clock, share=self._processes, metrics=metrics),
            trusted_proxies=settings.trusted_proxies,
            watches=Watches(self._sessions, self._changes, clock=clock),
        )

    def _processes(self) -> int:
        return self._membership.processes

    def _connect_quantapay(self, transport: Transport | None, clock: Clock) -> QuantaPay:
        settings = self._settings
        signing = settings.quantapay_webhook_secret
        if transport is None:
            # Half of a call's time is enough to connect; the rest is for the caller to keep (`client.py`).
            transport = HttpTransport(settings.quantapay_url, connect_seconds=settings.quantapay_timeout / 2)
        return QuantaPay(
            transport,
            url=settings.quantapay_url,
            api_keys=RotatingSecret(_api_key(settings), settings.quantapay_api_key_next),
            signing_secrets=RotatingSecret(signing, settings.quantapay_webhook_secret_next) if signing else None,
            payment_urls=PaymentUrls(
                settings.quantapay_payment_hosts,
                upstream_on_loopback=is_loopback(httpx.URL(settings.quantapay_url).host),
            ),
            timeout=settings.quantapay_timeout,
            upstream_name=self._upstream_name,
            budget=self._budget,
            clock=clock,
            metrics=self.metrics,
        )

    def _upstream_name(self, function: str) -> str:
        return self.config.current.functions.upstream(function)

    def public_app(self) -> ASGIApp:
        """Build what callers reach. Its lifespan starts and stops everything that runs beside requests."""
        api = create_api(self.services, docs=self._settings.docs, lifespan=self._lifespan)
        return create_public_app(api, self.services, metrics=self.metrics, tracer=self._tracer)

    def specification(self) -> dict[str, Any]:
        """Return the OpenAPI document."""
        return create_api(self.services, docs=False).openapi()

    def ops_app(
        self, status: Callable[[], Awaitable[dict[str, Any]]], *, write_metrics: Callable[[], None] | None = None
    ) -> Starlette:
        """Build what operators reach; `status` gives what `/status` answers, anew each time.

        `write_metrics`: only in a worker, see `create_ops_app`.
        """

        async def registry() -> CollectorRegistry:
            return self.metrics.registry

        return create_ops_app(registry=registry, status=status, clock=self.services.clock, write_metrics=write_metrics)

    @asynccontextmanager
    async def _lifespan(self, _app: FastAPI) -> AsyncIterator[None]:
        """Start in the order of dependence; close in the reverse."""
        async with AsyncExitStack() as stack:
            if self._tracer is not None:
                stack.push_async_callback(self._tracer.close)
            stack.push_async_callback(self._quantapay.close)
            await self.store.start()
            stack.push_async_callback(self.store.close)
            await self._membership.start()
            stack.push_async_callback(self._membership.close)
            await self._budget.start()
            stack.push_async_callback(self._budget.close)
            stack.push_async_callback(self.services.cache.close)
            await self.services.slots.start()
            stack.push_async_callback(self.services.slots.close)
            stack.push_async_callback(self.services.watches.close)
            await self._pipeline.start()
            stack.push_async_callback(self._pipeline.close)
            watching = asyncio.create_task(self.config.run())
            stack.callback(watching.cancel)
            self.services.lifecycle.started()
            yield

    def drain(self) -> None:
        """Answer `/readyz` with 503 from now on."""
        self.services.lifecycle.drain()

    def status(self) -> Status:
        """Return what this process knows of itself."""
        quantapay = self._quantapay
        return Status(
            phase=str(self.services.lifecycle.phase),
            store_up=self.store.up,
            processes_seen=self._membership.processes,
            clients=len(self.config.current.clients),
            config_in_force_is_newest=self._newest_in_force,
            clock_skew_seconds=quantapay.clock_skew,
            budget_limit=self._budget.state.limit,
            budget_remaining=self._budget.state.remaining,
            budget_shared=self._budget.state.store == "redis",
            backlog=self._pipeline.backlogs,
            breakers=dict(quantapay.breakers),
            last_upstream_outcomes=dict(quantapay.last_outcomes),
        )

    def _on_reload(self, success: bool, faults: tuple[ConfigFault, ...]) -> None:
        self._newest_in_force = success
        self.metrics.config_reloads.labels(result="success" if success else "failure").inc()
        self.metrics.config_last_reload_successful.set(success)
        if success:
            log.info("configuration reloaded")
        else:
            log.error("configuration not reloaded, the old one stays", faults=[str(fault) for fault in faults])

    def _on_change(self, config: Config) -> None:
        self._name_functions(config)
        self.services.keyring = Keyring(config.clients)
        self.services.origins = Origins(config.clients)
        self.services.config = config

    def _name_functions(self, config: Config) -> None:
        self.metrics.name_functions([*(function.name for function in FUNCTIONS), *config.functions.allow])


def _api_key(settings: Settings) -> SecretStr:
    if settings.quantapay_api_key is None:
        raise ValueError("a gateway needs QUANTAPAY_API_KEY")
    return settings.quantapay_api_key
