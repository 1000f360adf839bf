"""The way of a payment through the gateway: heard of, judged, told (interface §3.8).

webhook ──▶ Receiver ──▶ Inbox ──▶ Intake, Confirmation ──┐
                                                          ├──▶ Settlement ──▶ Outbox ──▶ Deliveries
QuantaPay's list ◀──────────────── Reconciliation ────────┘
"""

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

from pydantic import SecretStr

from gateway.clock import Clock
from gateway.config import Config
from gateway.payments.agenda import Agenda
from gateway.payments.reconcile import Reconciliation
from gateway.payments.sessions import Sessions
from gateway.payments.settlement import Settlement
from gateway.quantapay.client import QuantaPay
from gateway.quota import Quota
from gateway.store.redis import Store
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.spans import Tracer
from gateway.webhooks.allowance import Allowance
from gateway.webhooks.confirmation import Confirmation
from gateway.webhooks.deliver import Deliveries
from gateway.webhooks.inbox import Inbox
from gateway.webhooks.intake import Intake
from gateway.webhooks.outbox import Outbox
from gateway.webhooks.receive import Receiver


class Pipeline:
    """Everything that a payment passes, wired, and the tasks that see to it in this process."""

    def __init__(
        self,
        store: Store,
        *,
        quantapay: QuantaPay,
        sessions: Sessions,
        agenda: Agenda,
        keys: Sequence[SecretStr],
        budget: Quota,
        deadline: float,
        processes: Callable[[], int],
        config: Callable[[], Config],
        clock: Clock,
        metrics: Metrics,
        tracer: Tracer | None,
    ) -> None:
        """Wire it; nothing is started.

        `keys` are the webhook secrets, `budget` is that of calls to QuantaPay and `deadline` what one may take, in
        seconds; `processes` returns how many there are, `config` gateway.yaml as it is now.
        """
        self._deliveries = Deliveries(
            store, subscribers=lambda: config().subscribers, clock=clock, metrics=metrics, tracer=tracer
        )
        settlement = Settlement(
            sessions=sessions,
            agenda=agenda,
            events=Outbox(store, subscribers=lambda: config().subscribers, wake=self._deliveries.wake, metrics=metrics),
            tolerance=lambda: config().payments.amount_tolerance_percent,
            clock=clock,
            metrics=metrics,
        )
        self._reconciliation = Reconciliation(quantapay=quantapay, agenda=agenda, settlement=settlement, clock=clock)
        inbox = Inbox(store, deadline=deadline, on_refused=self._reconciliation.hasten)
        self._intake = Intake(
            inbox,
            Confirmation(quantapay, lambda: config().webhooks),
            settlement,
            Allowance(sessions, budget=budget, processes=processes, clock=clock),
            clock=clock,
        )
        self.receiver = Receiver(keys, inbox, metrics=metrics)
        self._running = AsyncExitStack()

    async def start(self) -> None:
        """Start from the end: nothing is put where nobody takes it yet."""
        for part in (self._deliveries, self._intake, self._reconciliation):
            await part.start()
            self._running.push_async_callback(part.close)

    async def close(self) -> None:
        """Stop in the reverse order. What is under way is another process's before long."""
        await self._running.aclose()

    @property
    def backlogs(self) -> dict[str, dict[str, float]]:
        """How far behind each subscriber is, by its id, as last seen: the figures of `/status`."""
        return {
            subscriber: {"waiting": seen.waiting, "age_seconds": round(seen.age, 1), "dead_letters": seen.dead}
            for subscriber, seen in self._deliveries.backlogs.items()
        }
