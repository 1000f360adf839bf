"""`GATEWAY_REDIS_URL` in all its shapes, good and bad."""

import traceback

import pytest
from pydantic import SecretStr
from redis.asyncio import Redis, RedisCluster, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.sentinel import SentinelConnectionPool

from gateway.store.address import Address
from gateway.store.client import DEADLINE, MOST_CONNECTIONS, connect

PASSWORD = "marked-hunter2"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://cache", Address("redis", hosts=(("cache", 6379),))),
        ("redis://cache:6380/2", Address("redis", hosts=(("cache", 6380),), db=2)),
        ("redis://cache/?db=3", Address("redis", hosts=(("cache", 6379),), db=3)),
        ("redis://[::1]:7000/", Address("redis", hosts=(("::1", 7000),))),
        (
            "redis://gw:a%2Fb%40c@cache/1",
            Address("redis", hosts=(("cache", 6379),), db=1, username="gw", password=SecretStr("a/b@c")),
        ),
        ("rediss://:pw@cache:1", Address("rediss", hosts=(("cache", 1),), password=SecretStr("pw"))),
        ("unix:///run/a%20b.sock?db=1", Address("unix", path="/run/a b.sock", db=1)),
        ("unix:///run/a.sock?password=pw", Address("unix", path="/run/a.sock", password=SecretStr("pw"))),
        (
            "redis+cluster://u:pw@h1:7001,h2,[::1]:7003",
            Address(
                "redis+cluster",
                hosts=(("h1", 7001), ("h2", 6379), ("::1", 7003)),
                username="u",
                password=SecretStr("pw"),
            ),
        ),
        (
            "redis+sentinel://h1,h2:26380/main/4",
            Address("redis+sentinel", hosts=(("h1", 26379), ("h2", 26380)), service="main", db=4),
        ),
        ("redis+sentinel://h1/main", Address("redis+sentinel", hosts=(("h1", 26379),), service="main")),
    ],
)
def test_every_shape_is_read(url: str, expected: Address) -> None:
    assert Address.parse(url) == expected
    assert Address.parse(SecretStr(url)) == expected


@pytest.mark.parametrize(
    "url",
    [
        "",
        PASSWORD,
        f"http://u:{PASSWORD}@cache",
        f"redis://:{PASSWORD}@",
        f"redis://:{PASSWORD}",
        f"redis://:{PASSWORD}@cache:port",
        f"redis://:{PASSWORD}@cache:99999",
        f"redis://:{PASSWORD}@cache/zero",
        f"redis://:{PASSWORD}@cache/1/2",
        f"redis://:{PASSWORD}@cache/٣",
        f"redis://:{PASSWORD}@one,two",
        f"redis://:{PASSWORD}#x@cache",
        f"redis://:x?{PASSWORD}@cache",
        f"redis://:x/{PASSWORD}@cache",
        f"redis://:{PASSWORD}@[::1",
        f"redis://:{PASSWORD}@cache?socket_timeout=30",
        f"redis://cache?password={PASSWORD}",
        f"redis://:{PASSWORD}@ca℀che",
        f"unix://:{PASSWORD}@run/socket",
        f"unix://?password={PASSWORD}",
        f"unix:///?password={PASSWORD}",
        f"redis+cluster://:{PASSWORD}@h1,,h2",
        f"redis+cluster://:{PASSWORD}@h1/3",
        f"redis+sentinel://:{PASSWORD}@h1",
        f"redis+sentinel://:{PASSWORD}@h1/main/x",
        f"redis+sentinel://:{PASSWORD}@h1/main/0/1",
    ],
)
def test_a_bad_url_names_the_shapes_and_never_itself(url: str) -> None:
    with pytest.raises(ValueError, match=r"^expected redis://host:6379/0, ") as caught:
        connect(SecretStr(url))
    chain = caught.value
    while chain is not None:
        assert PASSWORD not in "".join(map(str, chain.args))
        chain = chain.__cause__ or chain.__context__
    lines = traceback.format_exception_only(caught.value)
    assert PASSWORD not in "".join(lines)


def test_the_parts_and_the_client_hide_the_password() -> None:
    for url in (f"redis://:{PASSWORD}@cache", f"unix:///a?password={PASSWORD}"):
        assert PASSWORD not in repr(Address.parse(url))
        assert PASSWORD not in repr(connect(url))
    assert PASSWORD not in repr(Address.parse(f"redis+sentinel://h/main?sentinel_password={PASSWORD}"))


@pytest.mark.parametrize("url", ["redis://cache", "rediss://cache", "unix:///a", "redis+sentinel://h/main"])
def test_no_client_waits_long_or_retries(url: str) -> None:
    client = connect(url)
    assert isinstance(client, Redis)
    pool = client.connection_pool
    assert pool.max_connections == MOST_CONNECTIONS
    options = pool.connection_kwargs
    assert (options["socket_timeout"], options["socket_connect_timeout"]) == (None, DEADLINE), (
        "the store sees to the rest"
    )
    assert options["retry"].get_retries() == 0


def test_each_scheme_makes_its_kind_of_connection() -> None:
    unix, tls = connect("unix:///run/a.sock"), connect("rediss://cache?ssl_ca_certs=/etc/ca.pem")
    assert unix.connection_pool.connection_class is UnixDomainSocketConnection
    assert tls.connection_pool.connection_class is SSLConnection
    assert tls.connection_pool.connection_kwargs["ssl_ca_certs"] == "/etc/ca.pem"
    sentinel = connect("redis+sentinel://u:pw@h1,h2/main/2?sentinel_username=s&sentinel_password=spw")
    pool = sentinel.connection_pool
    assert isinstance(pool, SentinelConnectionPool)
    assert (pool.service_name, pool.connection_kwargs["db"], pool.connection_kwargs["password"]) == (
        "main",
        2,
        "pw",
    )
    for node in pool.sentinel_manager.sentinels:
        login = node.connection_pool.connection_kwargs
        assert (login["username"], login["password"]) == ("s", "spw")
    cluster = connect("redis+cluster://u:pw@h1:1,h2:2")
    assert isinstance(cluster, RedisCluster)
    assert sorted(node.name for node in cluster.startup_nodes) == ["h1:1", "h2:2"]
