"""Commands of one moment on a real Valkey: each gets its own reply, errors too."""

import asyncio
import time

import pytest
from redis.exceptions import RedisError, ResponseError

from gateway.store.client import DEADLINE, connect
from gateway.store.pipeline import PlainRedis, SharedPipeline
from tests.plugins.valkey import ValkeyServer


@pytest.fixture
async def shared(valkey: ValkeyServer):
    redis = connect(valkey.url)
    yield SharedPipeline(redis, deadline=DEADLINE)
    await redis.aclose()


@pytest.fixture(params=["shared", "plain"])
async def client(request: pytest.FixtureRequest, valkey: ValkeyServer):
    redis = connect(valkey.url)
    yield SharedPipeline(redis, deadline=DEADLINE) if request.param == "shared" else PlainRedis(redis)
    await redis.aclose()


async def test_each_command_gets_its_reply(client: PlainRedis) -> None:
    replies = await asyncio.gather(
        *(client.execute_command("SET", f"key-{n}", n) for n in range(20)),
        *(client.execute_command("GET", f"key-{n}") for n in range(20)),
    )
    assert replies[20:] == [str(n).encode() for n in range(20)]


async def test_an_error_is_that_of_its_command_alone(client: PlainRedis) -> None:
    good, bad, missing = await asyncio.gather(
        client.execute_command("SET", "text", "a"),
        client.execute_command("INCR", "text"),
        client.execute_command("EVALSHA", "0" * 40, 0),
        return_exceptions=True,
    )
    assert good
    assert isinstance(bad, ResponseError)
    assert "not an integer" in str(bad)
    assert isinstance(missing, ResponseError)


async def test_a_lone_commands_error_is_raised_as_well(client: PlainRedis) -> None:
    with pytest.raises(ResponseError):
        await client.execute_command("NO-SUCH-COMMAND")
    assert await client.execute_command("PING") in (True, b"PONG")


async def test_who_stops_waiting_leaves_no_reply_behind(client: PlainRedis, valkey: ValkeyServer) -> None:
    await client.execute_command("SET", "key", "before")
    valkey.pause()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(DEADLINE / 4):
            await client.execute_command("SET", "key", "late")
    valkey.resume()
    assert await client.execute_command("ECHO", "mine") == b"mine"


async def test_a_frozen_server_ends_the_wait_of_all_at_the_deadline_and_leaves_no_reply_behind(
    shared: SharedPipeline, valkey: ValkeyServer
) -> None:
    await shared.execute_command("SET", "key", "before")
    valkey.pause()
    started = time.monotonic()
    failures = await asyncio.gather(
        *(shared.execute_command("SET", f"late-{n}", n) for n in range(5)), return_exceptions=True
    )
    assert time.monotonic() - started < 10 * DEADLINE
    assert all(isinstance(failure, (RedisError, TimeoutError)) for failure in failures)
    valkey.resume()
    assert await shared.execute_command("GET", "key") == b"before"


async def test_a_reply_that_redis_py_cannot_take_leaves_no_other_behind(shared: SharedPipeline) -> None:
    await shared.execute_command("XGROUP", "CREATE", "log", "group", "0", "MKSTREAM")
    slow = "local n = 0 for i = 1, 3e5 do n = n + i end return 'late'"
    # Redis reads so long a message in pieces, and answers its first command meanwhile.
    nothing, late = await asyncio.gather(
        shared.execute_command("XPENDING", "log", "group", "-", "+", 1),
        shared.execute_command("EVAL", slow, 0, "x" * 1_000_000),
        return_exceptions=True,
    )
    assert await shared.execute_command("GET", "absent") is None
    assert isinstance(nothing, IndexError), "redis-py takes no empty list for this"
    assert late == b"late"
