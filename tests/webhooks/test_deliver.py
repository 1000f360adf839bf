"""Delivery over a real Redis to real servers: at least once, to everybody in time, whatever a subscriber does."""

import asyncio
import contextlib
import time
from collections import Counter

import pytest
from prometheus_client import generate_latest
from pydantic import SecretStr
from redis.asyncio import Redis
from standardwebhooks import Webhook
from structlog.testing import capture_logs

from gateway.clock import SystemClock
from gateway.config import Subscriber
from gateway.errors import StorageUnavailable
from gateway.store.queue import Backlog, Queue, put
from gateway.store.redis import Store
from gateway.telemetry.metrics import Metrics
from gateway.webhooks import deliver, lane
from gateway.webhooks.deliver import Deliveries
from gateway.webhooks.outbox import LEASE, subscriber_queue
from gateway.webhooks.schedule import Schedule
from gateway.webhooks.sender import TIMEOUT, Sender

OLD, NEW = (f"whsec_{letter * 42}A=" for letter in "CD")
AT_ONCE = Schedule(delays=(0.0, 0.0))
"""Three attempts, one right after the other."""


def subscriber(hook, name="alpha", *, secrets=(NEW,), url=None):
    return Subscriber(id=name, url=url or f"{hook.url}/{name}?token=in-the-url", secret=tuple(map(SecretStr, secrets)))


class Bench:
    """A store, and processes that deliver from it, to the subscribers in `configured`."""

    def __init__(self, store):
        self.store = store
        self.configured = []
        self._stack = contextlib.AsyncExitStack()

    def queue(self, name="alpha"):
        return subscriber_queue(self.store, name)

    async def put(self, *ids, name="alpha", group=""):
        for id_ in ids:
            await put(self.store, [self.queue(name)], id_, f'{{"id":"{id_}"}}', group=group)

    async def process(self, *subscribers, clock=None, **options):
        """Start to deliver, as one more process does."""
        self.configured = list(subscribers) or self.configured
        clock = clock or SystemClock()
        deliveries = Deliveries(
            self.store, subscribers=lambda: self.configured, clock=clock, metrics=Metrics(), **options
        )
        await deliveries.start()
        self._stack.push_async_callback(deliveries.close)
        return deliveries

    async def until(self, condition, what):
        """Poll until something is so, and fail by its name if it never is."""
        deadline = time.monotonic() + 20
        while not await condition():
            assert time.monotonic() < deadline, f"never happened: {what}"
            await asyncio.sleep(0.01)

    async def until_waiting(self, count, name="alpha"):
        async def so():
            return (await self.queue(name).backlog()).waiting == count

        await self.until(so, f"{count} events wait for {name}")

    async def until_dead(self, count, name="alpha"):
        async def so():
            return len(await self.queue(name).dead()) == count

        await self.until(so, f"{count} events of {name} are dead")
        return await self.queue(name).dead()

    async def until_looked(self, deliveries, *names):
        """Return when these subscribers have lanes that have looked at their queues."""

        async def so():
            return deliveries.backlogs.keys() >= (set(names) or {"alpha"})

        await self.until(so, "the queues are looked at")

    async def until_counted(self, deliveries, **outcomes):
        """Return when the deliveries to alpha have gone so."""

        async def so():
            return counted(deliveries) == outcomes

        await self.until(so, f"deliveries are counted as {outcomes}")

    async def attempts(self, id_="msg_1", name="alpha"):
        """Return how often an event was tried, and in how many seconds it is due."""
        due, _, _, state, _, _ = self.queue(name).keys

        async def look(redis):
            (seconds, micros), score = await redis.time(), await redis.zscore(due, id_)
            text = (await redis.hget(state, id_) or b"").decode()
            return text, (None if score is None else score / 1000 - seconds - micros / 1e6)

        return await self.store.run(look)

    async def make_due(self, id_="msg_1", name="alpha"):
        """Have the time come for an event's next attempt."""
        await self.store.run(lambda redis: redis.zadd(self.queue(name).keys[0], {id_: 1}))

    async def close(self):
        await self._stack.aclose()


@pytest.fixture
async def bench(valkey, monkeypatch):
    monkeypatch.setattr(lane, "POLL", 0.02)
    monkeypatch.setattr(deliver, "FOLLOW_EVERY", 0.02)
    redis = Redis.from_url(valkey.url, socket_timeout=20)
    store = Store(redis, clock=SystemClock(), metrics=Metrics(), deadline=20)  # a busy machine is no fault of Redis
    bench = Bench(store)
    yield bench
    await bench.close()
    await store.close()


def leasing(seconds, kind=Queue):
    """Make queues from which what is taken comes back so soon."""
    return lambda store, name: kind(store, f"subscriber:{name}", lease=seconds)


def counted(deliveries, name="alpha"):
    """Return the deliveries to a subscriber by outcome, as far as there are any."""
    samples = [sample for metric in deliveries._metrics.webhook_deliveries.collect() for sample in metric.samples]
    return {
        sample.labels["outcome"]: sample.value
        for sample in samples
        if sample.name.endswith("_total") and sample.labels["subscriber"] == name and sample.value
    }


def refusing(status, *headers):
    return "\r\n".join([f"HTTP/1.1 {status} No", *headers, "Content-Length: 0", "", ""]).encode()


async def test_every_subscriber_gets_its_events_under_its_own_secret(bench, hook_servers):
    one, other = await hook_servers(), await hook_servers()
    await bench.put("msg_1", "msg_2")
    await bench.put("msg_2", name="beta")
    deliveries = await bench.process(subscriber(one, secrets=(OLD, NEW)), subscriber(other, "beta", secrets=(OLD,)))
    await bench.until_waiting(0)
    await bench.until_waiting(0, "beta")
    assert sorted(one.ids) == ["msg_1", "msg_2"]
    assert other.ids == ["msg_2"]
    for request in one.requests:
        assert Webhook(OLD).verify(request.body, request.headers) == {"id": request.id}
        assert Webhook(NEW).verify(request.body, request.headers) == {"id": request.id}
    Webhook(OLD).verify(other.requests[0].body, other.requests[0].headers)
    assert counted(deliveries) == {"delivered": 2}
    assert counted(deliveries, "beta") == {"delivered": 1}


async def test_an_attempt_is_one_line_without_url_body_or_secret(bench, hook):
    with capture_logs() as lines:
        await bench.put("msg_1")
        await bench.process(subscriber(hook))
        await bench.until_waiting(0)
        hook.answer = refusing(500)
        await bench.put("msg_2")
        await hook.got(2)
        await bench.until_waiting(1)
        await bench.close()
    for line in lines:
        line.pop("ms")
    about = {"event": "attempt to deliver an event", "subscriber": "alpha", "attempt": 1}
    assert lines == [
        {**about, "log_level": "info", "webhook_id": "msg_1", "outcome": "delivered", "error": None},
        {**about, "log_level": "warning", "webhook_id": "msg_2", "outcome": "refused", "error": "500"},
    ]


async def test_whoever_is_woken_does_not_wait_for_the_next_look(bench, hook, monkeypatch):
    monkeypatch.setattr(lane, "POLL", 1000.0)
    deliveries = await bench.process(subscriber(hook))
    await bench.until_looked(deliveries)
    await bench.put("msg_1")
    deliveries.wake("alpha")
    deliveries.wake("nobody")
    await hook.got(1)


async def test_what_another_process_put_is_found_without_being_woken(bench, hook):
    await bench.until_looked(await bench.process(subscriber(hook)))
    await bench.put("msg_1")
    await hook.got(1)


async def test_one_that_hangs_holds_nobody_else_up(bench, hook_servers):
    slow, good = await hook_servers(), await hook_servers()
    slow.answer = slow.hang
    await bench.put(*(f"msg_{number}" for number in range(30)))
    await bench.put(*(f"msg_{number}" for number in range(30)), name="beta")
    await bench.process(subscriber(slow), subscriber(good, "beta"))
    await slow.got(lane.PLACES)
    await bench.until_waiting(0, "beta")
    assert len(good.ids) == 30
    assert len(slow.ids) == lane.PLACES  # at once, and no more before one of these has ended


async def test_a_place_that_is_free_again_is_used_at_once(bench, hook, monkeypatch):
    monkeypatch.setattr(lane, "POLL", 1000.0)
    await bench.put(*(f"msg_{number}" for number in range(5 * lane.PLACES)))
    await bench.process(subscriber(hook))
    await bench.until_waiting(0)
    assert len(set(hook.ids)) == len(hook.ids) == 5 * lane.PLACES


async def test_one_that_fails_is_tried_again_in_about_five_seconds(bench, hook):
    hook.answer = refusing(500)
    await bench.put("msg_1")
    deliveries = await bench.process(subscriber(hook))
    await hook.got(1)

    async def put_off():
        state, due = await bench.attempts()
        return '"attempts":1' in state and '"error":"500"' in state and 4 - 2 < due <= 6

    await bench.until(put_off, "the event is put off")
    hook.answer = hook.OK
    await bench.make_due()
    await bench.until_waiting(0)
    assert hook.ids == ["msg_1", "msg_1"]
    assert hook.requests[0].body == hook.requests[1].body
    await bench.until_counted(deliveries, refused=1, delivered=1)


@pytest.mark.parametrize("how", ["reset", "redirect", "nobody"])
async def test_whatever_else_goes_wrong_is_tried_again_too(bench, hook, how):
    hook.answer = hook.reset if how == "reset" else refusing(302, f"Location: {hook.url}")
    url = "http://127.0.0.1:9/" if how == "nobody" else hook.url
    await bench.put("msg_1")
    await bench.process(subscriber(hook, url=url))

    async def put_off():
        return '"attempts":1' in (await bench.attempts())[0]

    await bench.until(put_off, "the event is put off")
    assert len(hook.ids) == (0 if how == "nobody" else 1)


async def test_retry_after_is_honoured(bench, hook):
    hook.answer = refusing(503, "Retry-After: 3600")
    await bench.put("msg_1")
    await bench.process(subscriber(hook))
    await hook.got(1)

    async def put_off():
        return 3600 - 20 < (await bench.attempts())[1] <= 3600

    await bench.until(put_off, "the event is put off for an hour")


async def test_after_the_last_attempt_an_event_is_a_dead_letter_and_can_be_revived(bench, hook):
    hook.answer = refusing(500)
    await bench.put("msg_1")
    with capture_logs() as lines:
        deliveries = await bench.process(subscriber(hook), schedule=AT_ONCE)
        [dead] = await bench.until_dead(1)
        await bench.until_counted(deliveries, refused=3, dead=1)
    assert (dead.id, dead.attempts, dead.error) == ("msg_1", 3, "500")
    assert hook.ids == ["msg_1"] * 3
    [line] = [line for line in lines if line["log_level"] == "error"]
    assert (line["event"], line["webhook_id"], line["attempts"]) == ("event given up", "msg_1", 3)

    hook.answer = hook.OK
    assert await bench.queue().revive("msg_1")
    await bench.until_waiting(0)
    assert hook.ids == ["msg_1"] * 4


async def test_one_that_says_it_is_gone_is_not_asked_again_but_nothing_is_lost(bench, hook):
    hook.answer = refusing(410)
    await bench.put("msg_1")
    with capture_logs() as lines:
        await bench.process(subscriber(hook))
        [dead] = await bench.until_dead(1)
        await bench.close()
    assert (dead.attempts, dead.error, dead.message) == (1, "410 gone", '{"id":"msg_1"}')
    [line] = [line for line in lines if line["log_level"] == "error"]
    assert "remove it from gateway.yaml" in line["hint"]


async def test_the_next_of_a_session_waits_for_the_one_before(bench, hook):
    hook.answer = hook.hang
    await bench.put("msg_1", "msg_2", group="cs_1")
    await bench.put("msg_3", group="cs_2")
    await bench.process(subscriber(hook))
    await hook.got(2)

    assert sorted(hook.ids) == ["msg_1", "msg_3"]


async def test_a_change_of_the_configuration_is_followed(bench, hook_servers):
    one, other = await hook_servers(), await hook_servers()
    deliveries = await bench.process(subscriber(one))
    await bench.put("msg_1")
    await one.got(1)

    bench.configured = [subscriber(other, secrets=(OLD,)), subscriber(one, "beta")]
    await bench.until_looked(deliveries, "beta")
    await bench.put("msg_2")
    await bench.put("msg_3", name="beta")
    await other.got(1)
    await one.got(2)
    Webhook(OLD).verify(other.requests[0].body, other.requests[0].headers)
    assert (one.ids, other.ids) == (["msg_1", "msg_3"], ["msg_2"])

    bench.configured = []

    async def left():
        return not deliveries._lanes and not deliveries._leaving

    await bench.until(left, "the lanes have ended")
    await bench.put("msg_4")
    deliveries.wake("alpha")
    await asyncio.sleep(0.1)
    assert other.ids == ["msg_2"]
    bench.configured = [subscriber(other)]
    await other.got(2)
    assert other.ids == ["msg_2", "msg_4"]


async def test_an_attempt_under_way_ends_though_its_subscriber_is_removed(bench, hook):
    answering = asyncio.Event()

    async def answer_later(_request, writer):
        await answering.wait()
        writer.write(hook.OK)

    hook.answer = answer_later
    await bench.put("msg_1")
    deliveries = await bench.process(subscriber(hook))
    await hook.got(1)
    bench.configured = []
    while deliveries._lanes:
        await asyncio.sleep(0.01)
    await bench.until_waiting(1)
    answering.set()
    await bench.until_waiting(0)
    assert counted(deliveries) == {"delivered": 1}


async def test_two_processes_deliver_each_event_once(bench, hook):
    async def answer_soon(_request, writer):
        await asyncio.sleep(0.02)
        writer.write(hook.OK)

    hook.answer = answer_soon
    both = [await bench.process(subscriber(hook)), await bench.process()]
    for deliveries in both:
        await bench.until_looked(deliveries)
    await bench.put(*(f"msg_{number}" for number in range(100)))
    await bench.until_waiting(0)
    assert Counter(hook.ids) == {f"msg_{number}": 1 for number in range(100)}
    assert all(counted(deliveries)["delivered"] > 0 for deliveries in both)


async def test_what_a_process_was_at_when_it_ended_another_delivers_after_the_lease(bench, hook, monkeypatch):
    monkeypatch.setattr(deliver, "GRACE", 0.05)
    hook.answer = hook.hang
    await bench.put("msg_1")
    first = await bench.process(subscriber(hook), queue=leasing(0.5))
    await hook.got(1)
    started = time.monotonic()
    await first.close()
    assert time.monotonic() - started < 5
    hook.answer = hook.OK
    await bench.process(queue=leasing(0.5))
    await bench.until_waiting(0)
    assert hook.ids == ["msg_1", "msg_1"]
    assert hook.requests[0].body == hook.requests[1].body


async def test_an_attempt_that_ends_soon_is_let_end_when_the_process_does(bench, hook, monkeypatch):
    monkeypatch.setattr(deliver, "GRACE", 20.0)

    async def answer_soon(_request, writer):
        await asyncio.sleep(0.1)
        writer.write(hook.OK)

    hook.answer = answer_soon
    await bench.put("msg_1")
    deliveries = await bench.process(subscriber(hook))
    await hook.got(1)
    await deliveries.close()
    await bench.until_waiting(0)
    assert hook.ids == ["msg_1"]


class Quick(SystemClock):
    """A clock on which sleep is short, and kept."""

    def __init__(self):
        self.slept = []

    async def sleep(self, seconds):
        self.slept.append(seconds)
        await super().sleep(0.01)


async def test_what_was_delivered_is_noted_even_if_redis_is_away_for_a_moment(bench, hook):
    faults = [StorageUnavailable(retry_after=1)] * 2

    class Flaky(Queue):
        async def finish(self, taken):
            if faults:
                raise faults.pop()
            await super().finish(taken)

    clock = Quick()
    await bench.put("msg_1")
    with capture_logs() as lines:
        await bench.process(subscriber(hook), clock=clock, queue=leasing(30, Flaky))
        await bench.until_waiting(0)
    assert hook.ids == ["msg_1"]
    assert [seconds for seconds in clock.slept if seconds in lane.SETTLE_AGAIN] == list(lane.SETTLE_AGAIN[:2])
    assert {line["log_level"] for line in lines} == {"info"}


async def test_what_was_delivered_and_cannot_be_noted_is_delivered_again(bench, hook):
    redis_is_away = True

    class Forgetful(Queue):
        async def finish(self, taken):
            if redis_is_away:
                raise StorageUnavailable(retry_after=1)
            await super().finish(taken)

    await bench.put("msg_1")
    await bench.process(subscriber(hook), clock=Quick(), queue=leasing(0.3, Forgetful))
    await hook.got(2)
    redis_is_away = False
    await bench.until_waiting(0)
    assert set(hook.ids) == {"msg_1"}


def test_what_redis_is_told_again_is_told_within_the_lease():
    redis_waits = 0.1 * (len(lane.SETTLE_AGAIN) + 1)
    assert TIMEOUT + sum(lane.SETTLE_AGAIN) + redis_waits < LEASE


async def test_a_lane_outlives_whatever_happens_to_it(bench, hook):
    faults = [ValueError("a text with secrets"), ValueError("again"), StorageUnavailable(retry_after=1)]

    class Faulty(Queue):
        async def take(self, most):
            if faults:
                raise faults.pop(0)
            return await super().take(most)

    await bench.put("msg_1")
    with capture_logs() as lines:
        await bench.process(subscriber(hook), queue=leasing(30, Faulty))
        await bench.until_waiting(0)
    [line] = [line for line in lines if line["log_level"] == "error"]
    assert (line["event"], line["error"]) == ("delivery of events interrupted", "ValueError")
    assert line["frames"]
    assert "secrets" not in str(lines)


async def test_a_bug_in_noting_what_became_of_an_attempt_ends_nothing(bench, hook):
    faults = [ValueError("a text"), *[StorageUnavailable(retry_after=1)] * (len(lane.SETTLE_AGAIN) + 1)]

    class Faulty(Queue):
        async def finish(self, taken):
            if faults:
                raise faults.pop(0)
            await super().finish(taken)

    await bench.put("msg_1")
    await bench.process(subscriber(hook), clock=Quick(), queue=leasing(0.3, Faulty))
    await bench.until_waiting(0)
    assert set(hook.ids) == {"msg_1"}
    assert len(hook.ids) >= 3


async def test_an_event_that_a_bug_strikes_each_time_ends_among_the_dead_letters(bench, hook):
    class Broken(Sender):
        async def send(self, *_args):
            raise ValueError("a text with secrets")

    await bench.put("msg_1")
    with capture_logs() as lines:
        await bench.process(subscriber(hook), sender=Broken(clock=SystemClock()), schedule=AT_ONCE)
        [dead] = await bench.until_dead(1)
    assert (dead.attempts, dead.error) == (3, "internal error")
    assert "secrets" not in str(lines)


async def test_a_configuration_that_cannot_be_read_ends_no_lane(bench, hook):
    faults = []

    def configured():
        if faults:
            raise faults[0]
        return [subscriber(hook)]

    deliveries = Deliveries(bench.store, subscribers=configured, clock=SystemClock(), metrics=Metrics())
    await deliveries.start()
    await bench.put("msg_1")
    await hook.got(1)
    with capture_logs() as lines:
        faults.append(ValueError("a text with secrets"))
        await asyncio.sleep(0.1)
        await bench.put("msg_2")
        await hook.got(2)
    assert any(line["event"] == "subscribers not followed" for line in lines)
    assert "secrets" not in str(lines)
    await deliveries.close()


async def test_the_backlog_is_shown_while_it_is_there_and_when_it_is_gone(bench, hook, monkeypatch):
    monkeypatch.setattr(lane, "COUNT_EVERY", 0.02)
    hook.answer = hook.hang
    await bench.put("msg_1", "msg_2")
    deliveries = await bench.process(subscriber(hook))

    def shown():
        text = generate_latest(deliveries._metrics.registry).decode()
        lines = dict(line.split() for line in text.splitlines() if line.startswith("gateway_webhook_"))
        label = '{subscriber="alpha"}'
        names = ("backlog", "backlog_age_seconds", "dead_letters")
        return [float(lines.get(f"gateway_webhook_{name}{label}", -1)) for name in names]

    async def seen():
        backlog = deliveries.backlogs.get("alpha", Backlog(0, 0, 0))
        return backlog.waiting == 2 and backlog.age > 0.1

    assert deliveries.backlogs == {}
    await bench.until(seen, "the backlog is seen")
    waiting, age, dead = shown()
    assert (waiting, dead) == (2, 0)
    assert 0.1 < age < 20

    bench.configured = []

    async def gone():
        return deliveries.backlogs == {} and shown() == [0, 0, 0]

    await bench.until(gone, "nothing is shown of a subscriber that is configured no more")


async def test_every_series_of_a_subscriber_is_there_from_the_start(bench, hook):
    deliveries = await bench.process(subscriber(hook))
    await bench.until_looked(deliveries)
    text = generate_latest(deliveries._metrics.registry).decode()
    assert 'gateway_webhook_deliveries_total{outcome="dead",subscriber="alpha"} 0.0' in text
