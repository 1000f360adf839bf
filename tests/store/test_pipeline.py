"""Commands of one moment on a real Valkey: one connection for all, and each gets its own reply, errors too."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis import exceptions

from gateway.store.client import DEADLINE, connect
from gateway.store.pipeline import Channel, PipelinedRedis
from tests.plugins.valkey import ValkeyServer


@pytest.fixture
async def client(valkey: ValkeyServer) -> AsyncIterator[PipelinedRedis]:
    redis = connect(valkey.url)
    pipelined = PipelinedRedis(redis)
    yield pipelined
    await pipelined.close_channel()
    await redis.aclose()


def connections(valkey: ValkeyServer) -> int:
    """Return how many clients the server has, besides the one that asks."""
    with valkey.client() as redis:
        return len(redis.client_list()) - 1


async def test_each_command_gets_its_reply_and_all_share_a_connection(
    client: PipelinedRedis, valkey: ValkeyServer
) -> None:
    await client.execute_command("PING")
    before = connections(valkey)
    replies = await asyncio.gather(
        *(client.execute_command("SET", f"key-{n}", n) for n in range(200)),
        *(client.execute_command("GET", f"key-{n}") for n in range(200)),
    )
    assert replies[200:] == [str(n).encode() for n in range(200)]
    assert connections(valkey) == before


async def test_an_error_is_that_of_its_command_alone(client: PipelinedRedis) -> None:
    good, bad, missing = await asyncio.gather(
        client.execute_command("SET", "text", "a"),
        client.execute_command("INCR", "text"),
        client.execute_command("EVALSHA", "0" * 40, 0),
        return_exceptions=True,
    )
    assert good
    assert isinstance(bad, exceptions.ResponseError)
    assert "not an integer" in str(bad)
    assert isinstance(missing, exceptions.NoScriptError)


async def test_a_lone_commands_error_is_raised_as_well(client: PipelinedRedis) -> None:
    with pytest.raises(exceptions.ResponseError):
        await client.execute_command("NO-SUCH-COMMAND")
    assert await client.execute_command("PING") in (True, b"PONG")


async def test_a_command_that_cannot_be_written_shifts_no_replies(client: PipelinedRedis) -> None:
    first, bad, last = await asyncio.gather(
        client.execute_command("ECHO", "first"),
        client.execute_command("ECHO", object()),
        client.execute_command("ECHO", "last"),
        return_exceptions=True,
    )
    assert (first, last) == (b"first", b"last")
    assert isinstance(bad, TypeError)
    assert await client.execute_command("ECHO", "mine") == b"mine"


async def test_a_connection_that_is_ending_takes_no_more_commands() -> None:
    channel = Channel(Stream())
    channel.eof_received()
    assert not channel.is_open


async def test_who_stops_waiting_leaves_no_reply_behind(client: PipelinedRedis, valkey: ValkeyServer) -> None:
    await client.execute_command("SET", "key", "before")
    valkey.pause()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(DEADLINE / 4):
            await client.execute_command("SET", "key", "late")
    valkey.resume()
    assert await client.execute_command("ECHO", "mine") == b"mine"


async def test_after_a_command_that_was_given_up_the_next_has_another_connection(
    client: PipelinedRedis, valkey: ValkeyServer
) -> None:
    """Nobody knows whether the one that did not answer still leads anywhere."""
    number = await client.execute_command("CLIENT", "ID")
    valkey.pause()
    patient = asyncio.create_task(client.execute_command("ECHO", "patient"))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(DEADLINE / 4):
            await client.execute_command("ECHO", "given up")
    valkey.resume()
    assert await client.execute_command("CLIENT", "ID") != number
    assert await patient == b"patient", "who goes on waiting has the reply of the connection that takes no more"
    before = connections(valkey)
    await until_closed(valkey, number)
    assert connections(valkey) <= before


async def until_closed(valkey: ValkeyServer, number: int) -> None:
    async with asyncio.timeout(5):
        while True:
            with valkey.client() as redis:
                if number not in {int(client["id"]) for client in redis.client_list()}:
                    return
            await asyncio.sleep(0.01)


async def test_a_frozen_server_ends_the_wait_of_each_when_its_time_is_up(
    client: PipelinedRedis, valkey: ValkeyServer
) -> None:
    async def ask(number: int) -> None:
        async with asyncio.timeout(DEADLINE):
            await client.execute_command("SET", f"late-{number}", number)

    await client.execute_command("SET", "key", "before")
    valkey.pause()
    started = time.monotonic()
    failures = await asyncio.gather(*map(ask, range(50)), return_exceptions=True)
    assert time.monotonic() - started < 10 * DEADLINE
    assert all(isinstance(failure, TimeoutError) for failure in failures)
    valkey.resume()
    assert await client.execute_command("GET", "key") == b"before"


async def test_a_connection_that_ends_ends_all_that_is_under_way_and_the_next_command_has_another(
    client: PipelinedRedis, valkey: ValkeyServer
) -> None:
    number = await client.execute_command("CLIENT", "ID")
    waiting = [asyncio.create_task(client.execute_command("BLPOP", "nothing", 0)) for _ in range(3)]
    await asyncio.sleep(0.01)
    with valkey.client() as other:
        other.client_kill_filter(_id=number)
    async with asyncio.timeout(5):
        failures = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(failure, exceptions.ConnectionError) for failure in failures)
    assert await client.execute_command("CLIENT", "ID") != number


async def test_who_is_cancelled_while_the_connection_is_made_takes_nobody_along(
    client: PipelinedRedis, valkey: ValkeyServer
) -> None:
    first, *others = [asyncio.create_task(client.execute_command("ECHO", str(n))) for n in range(3)]
    await asyncio.sleep(0)
    first.cancel()
    assert await asyncio.gather(*others) == [b"1", b"2"]
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_renewing_leaves_what_is_under_way_alone(client: PipelinedRedis, valkey: ValkeyServer) -> None:
    number = await client.execute_command("CLIENT", "ID")
    valkey.pause()
    under_way = asyncio.create_task(client.execute_command("ECHO", "old"))
    await asyncio.sleep(0)
    renewing = asyncio.create_task(client.renew())
    valkey.resume()
    assert await under_way == b"old"
    await renewing
    assert await client.execute_command("CLIENT", "ID") != number
    await until_closed(valkey, number)


async def test_a_connection_that_is_made_while_all_are_renewed_is_not_used(client: PipelinedRedis) -> None:
    """It may lead to the server that was just replaced."""
    made = []

    async def connect_and_be_renewed(connect=client._connection.connect) -> None:
        await connect()
        made.append(None)
        if len(made) == 1:
            await client.renew()

    client._connection.connect = connect_and_be_renewed
    assert await client.execute_command("ECHO", "mine") == b"mine"
    assert len(made) == 2


async def test_after_closing_no_connection_is_made_or_left(client: PipelinedRedis, valkey: ValkeyServer) -> None:
    before = connections(valkey)

    async def connect_and_be_closed(connect=client._connection.connect) -> None:
        await connect()
        await client.close_channel()

    client._connection.connect = connect_and_be_closed
    for _ in range(2):
        with pytest.raises(exceptions.ConnectionError):
            await client.execute_command("PING")
    await asyncio.sleep(0.05)
    assert connections(valkey) == before


async def test_what_it_takes_to_connect_is_made_once(client: PipelinedRedis, monkeypatch: pytest.MonkeyPatch) -> None:
    """A TLS context takes tens of milliseconds, in which nothing else is done."""
    monkeypatch.setattr(client.connection_pool, "make_connection", None)
    for _ in range(3):
        await client.renew()
        assert await client.execute_command("ECHO", "mine") == b"mine"


async def test_a_reply_that_redis_py_cannot_take_leaves_no_other_behind(client: PipelinedRedis) -> None:
    await client.execute_command("XGROUP", "CREATE", "log", "group", "0", "MKSTREAM")
    slow = "local n = 0 for i = 1, 3e5 do n = n + i end return 'late'"
    nothing, late = await asyncio.gather(
        client.execute_command("XPENDING", "log", "group", "-", "+", 1),
        client.execute_command("EVAL", slow, 0, "x" * 1_000_000),
        return_exceptions=True,
    )
    assert await client.execute_command("GET", "absent") is None
    assert isinstance(nothing, IndexError), "redis-py takes no empty list for this"
    assert late == b"late"


async def test_a_wrong_password_is_an_error_and_leaves_no_connection(valkey: ValkeyServer) -> None:
    before = connections(valkey)
    redis = connect(valkey.url.replace("unix://", "unix://:wrong@"))
    client = PipelinedRedis(redis)
    with pytest.raises(exceptions.RedisError):
        await client.execute_command("PING")
    await redis.aclose()
    await asyncio.sleep(0.05)
    assert connections(valkey) == before


# What a server may send


class FakeTransport(asyncio.Transport):
    """Keeps what is sent, and tells of its end in the next turn of the loop, as real ones do."""

    def __init__(self) -> None:
        super().__init__()
        self.protocol: asyncio.BaseProtocol | None = None
        self.sent: list[bytes] = []
        self.aborted = False

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent.append(bytes(data))

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        if not self.aborted:
            self.aborted = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)


class Stream:
    def __init__(self) -> None:
        self.transport = FakeTransport()


@given(
    replies=st.lists(
        st.one_of(st.integers(-(2**63), 2**63 - 1), st.binary(max_size=50), st.none(), st.lists(st.binary(max_size=9))),
        max_size=12,
    ),
    cuts=st.lists(st.integers(0, 400)),
    given_up=st.sets(st.integers(0, 11)),
)
def test_replies_cut_anywhere_reach_who_asked_for_them(
    replies: list[object], cuts: list[int], given_up: set[int]
) -> None:
    async def check() -> None:
        stream = Stream()
        channel = Channel(stream)
        asked = [asyncio.create_task(channel.ask(("ECHO", n))) for n in range(len(replies))]
        await asyncio.sleep(0)
        cancelled = {n for n in given_up if n < len(replies)}
        for n in cancelled:
            asked[n].cancel()
        await asyncio.sleep(0)
        content = b"".join(map(written, replies))
        places = sorted({0, len(content), *(cut for cut in cuts if cut < len(content))})
        for start, end in itertools.pairwise(places):
            channel.data_received(content[start:end])
        for n, task in enumerate(asked):
            if n not in cancelled:
                assert await task == replies[n]
        assert channel.is_open == (not cancelled)
        assert stream.transport.aborted == bool(cancelled), "it closes once the last has its reply"

    asyncio.run(check())


def written(reply: object) -> bytes:
    match reply:
        case int():
            return b":%d\r\n" % reply
        case bytes():
            return b"$%d\r\n%b\r\n" % (len(reply), reply)
        case list():
            return b"*%d\r\n%b" % (len(reply), b"".join(map(written, reply)))
    return b"$-1\r\n"


@pytest.mark.parametrize("said", [b"+OK\r\n", b":1\r\n:2\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
@pytest.mark.parametrize("asked", [0, 1])
async def test_what_was_not_asked_for_ends_the_connection(said: bytes, asked: int) -> None:
    stream = Stream()
    channel = Channel(stream)
    waiting = [asyncio.create_task(channel.ask(("GET", "a"))) for _ in range(asked)]
    await asyncio.sleep(0)
    channel.data_received(said)
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    is_one_reply = said.startswith(b"+") and asked
    assert channel.is_open == bool(is_one_reply)
    assert stream.transport.aborted == (not is_one_reply)
    if asked and said.startswith(b"HTTP"):
        assert isinstance(answers[0], exceptions.ConnectionError)


async def test_who_is_cancelled_when_the_reply_is_there_leaves_the_connection_to_others() -> None:
    channel = Channel(Stream())
    asked = asyncio.create_task(channel.ask(("GET", "a")))
    await asyncio.sleep(0)
    channel.data_received(b"+OK\r\n")
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert channel.is_open


async def test_a_false_of_a_newer_protocol_shifts_no_replies() -> None:
    channel = Channel(Stream())
    asked = [asyncio.create_task(channel.ask(("GET", n))) for n in range(2)]
    await asyncio.sleep(0)
    channel.data_received(b"#f\r\n+second\r\n")
    assert await asyncio.gather(*asked) == [False, b"second"]


async def test_an_error_within_a_list_is_part_of_the_reply() -> None:
    channel = Channel(Stream())
    asked = asyncio.create_task(channel.ask(("EVAL", "...", 0)))
    await asyncio.sleep(0)
    channel.data_received(b"*2\r\n:1\r\n-WRONGTYPE no\r\n")
    number, error = await asked
    assert number == 1
    assert isinstance(error, exceptions.ResponseError)
    assert not isinstance(error, hiredis.ReplyError)
