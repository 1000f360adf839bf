"""Who may talk to Redis, and to which: TLS that is verified, and a user with just the permissions that it needs."""

import asyncio
import re
import shutil
import subprocess
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

import pytest

from gateway.access.limits import Limits, client_limit, ip_limit
from gateway.access.limits_local import LocalLimiter
from gateway.access.limits_redis import RedisLimiter
from gateway.access.streams import StreamSlots
from gateway.clock import SystemClock, utc
from gateway.errors import StorageUnavailable
from gateway.payments.agenda import Agenda
from gateway.payments.changes import Changes
from gateway.payments.session import Session, SessionStatus
from gateway.payments.sessions import Sessions
from gateway.quantapay.budget.shared import SharedBudget
from gateway.quantapay.urgency import Urgency
from gateway.quota import Quota
from gateway.store.cache import Cache, CacheKey
from gateway.store.flight import Fetched
from gateway.store.idempotency import Answer, Claim, Idempotency
from gateway.store.membership import Membership
from gateway.store.orders import OrderClaim, Orders, OrderSessions
from gateway.store.redis import PROBE_INTERVAL, Store
from gateway.telemetry.metrics import Metrics
from tests.plugins.redis_servers import (
    LOGIN,
    PERMISSIONS,
    RedisServer,
    RedisServers,
    running,
    until_back,
)

KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
PATIENT = 2.0
"""A deadline for tests that are not about deadlines."""
NO_END = -1
"""What PTTL says of a key that stays for ever; of one in its last millisecond it says 0."""


class Certificates:
    """Certificates made by `openssl`: an authority's, and what it or another signed for servers and clients."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        for authority in ("ours", "theirs"):
            self._openssl("req", "-x509", *KEY, "-subj", f"/CN={authority}", "-days", "2", *self._out(authority))

    def authority(self, name: str = "ours") -> Path:
        return self._folder / f"{name}.pem"

    def sign(self, name: str, *, subject: str = "IP:127.0.0.1", days: int = 2, by: str = "ours") -> tuple[Path, Path]:
        """Make a certificate that is valid for `days` from now; return its file and its key's."""
        request = self._folder / f"{name}.csr"
        self._openssl("req", *KEY, "-subj", "/CN=redis", "-out", request, "-keyout", self._key(name))
        extensions = self._folder / f"{name}.ext"
        extensions.write_text(f"subjectAltName={subject}\n")
        authority = ("-CA", self.authority(by), "-CAkey", self._key(by), "-CAcreateserial")
        certificate = self._folder / f"{name}.pem"
        terms = ("-days", days, "-extfile", extensions)
        self._openssl("x509", "-req", "-in", request, *authority, *terms, "-out", certificate)
        return certificate, self._key(name)

    def _key(self, name: str) -> Path:
        return self._folder / f"{name}.key"

    def _out(self, name: str) -> tuple[object, ...]:
        return "-out", self.authority(name), "-keyout", self._key(name)

    def _openssl(self, *words: object) -> None:
        subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    return Certificates(tmp_path_factory.mktemp("certificates"))


@dataclass(frozen=True)
class SecureServer:
    """A server that speaks TLS on one port; what is asked of it from outside goes over another."""

    server: RedisServer
    tls_port: int

    def url(self, authority: Path | None, more: str = "") -> str:
        trusted = f"?ssl_ca_certs={authority}" if authority else ""
        return f"rediss://{LOGIN}@127.0.0.1:{self.tls_port}/{trusted}{more}"

    def present(self, certificate: Path, key: Path) -> None:
        """Show another certificate to whoever connects from now on."""
        self.server.ask("CONFIG", "SET", "tls-cert-file", certificate, "tls-key-file", key)


def secure_server(servers: RedisServers, certificates: Certificates, *, clients: str = "no") -> SecureServer:
    certificate, key = certificates.sign("server")
    port = servers.free_port()
    files = ["--tls-cert-file", certificate, "--tls-key-file", key, "--tls-ca-cert-file", certificates.authority()]
    server = servers.plain("--tls-port", port, *files, "--tls-auth-clients", clients).ready()
    return SecureServer(server, port)


async def stays_down(store: Store) -> None:
    """Look through several probes, one of which may fail for lack of time alone."""
    for _ in range(3):
        assert not store.up
        await asyncio.sleep(PROBE_INTERVAL)


async def test_tls_is_spoken_with_a_server_that_the_named_authority_vouches_for(
    debian_redis: RedisServers, certificates: Certificates
) -> None:
    secure = secure_server(debian_redis, certificates)
    async with running(secure.url(certificates.authority()), deadline=PATIENT) as store:
        await until_back(store)


@pytest.mark.parametrize(
    "wrong",
    [{"by": "theirs"}, {"days": -1}, {"subject": "DNS:localhost"}, {"subject": "IP:127.0.0.2"}],
    ids=["another authority's", "expired", "for a name", "for another address"],
)
async def test_a_wrong_certificate_is_refused_and_the_right_one_taken_without_a_restart(
    debian_redis: RedisServers, certificates: Certificates, wrong: dict[str, str | int]
) -> None:
    secure = secure_server(debian_redis, certificates)
    secure.present(*certificates.sign("wrong", **wrong))
    async with running(secure.url(certificates.authority()), deadline=PATIENT) as store:
        await stays_down(store)
        secure.present(*certificates.sign("right"))
        await until_back(store)


async def test_an_authority_that_nobody_named_is_not_trusted(
    debian_redis: RedisServers, certificates: Certificates
) -> None:
    secure = secure_server(debian_redis, certificates)
    for authority in (None, certificates.authority("theirs")):
        async with running(secure.url(authority), deadline=PATIENT) as store:
            await stays_down(store)


async def test_a_server_that_asks_for_a_certificate_gets_the_gateways(
    debian_redis: RedisServers, certificates: Certificates
) -> None:
    secure = secure_server(debian_redis, certificates, clients="yes")
    async with running(secure.url(certificates.authority()), deadline=PATIENT) as store:
        await stays_down(store)
    certificate, key = certificates.sign("client")
    more = f"&ssl_certfile={certificate}&ssl_keyfile={key}"
    async with running(secure.url(certificates.authority(), more), deadline=PATIENT) as store:
        await until_back(store)


async def test_nothing_is_ever_said_in_plain_to_a_server_that_speaks_no_tls() -> None:
    heard = bytearray()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.extend(await reader.read(4096))
        writer.write(b"-ERR Protocol error\r\n")
        heard.extend(await reader.read(4096))
        writer.close()

    async with await asyncio.start_server(listen, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with running(f"rediss://gateway:hunter2@127.0.0.1:{port}") as store:
            assert not store.up
    assert heard.startswith(b"\x16\x03")  # a TLS handshake
    assert b"AUTH" not in heard
    assert b"hunter2" not in heard


async def use_everything(store: Store) -> None:
    """Have the gateway keep in Redis all that it ever keeps there."""
    clock, metrics = SystemClock(), Metrics()
    limiter = RedisLimiter(store, LocalLimiter(clock, share=lambda: 1), clock=SystemClock(), metrics=metrics)
    quota = Quota.parse("600/minute")
    await limiter.take(Limits(client_limit("orders", quota), ip_limit("orders", "203.0.113.7", quota)))
    membership = Membership(store, clock=clock, assumed=1)
    budget = SharedBudget(store, quota=quota, account="account", share=lambda: 1, clock=clock, metrics=metrics)
    cache = Cache(store, clock=clock, metrics=metrics, timeout=PATIENT)

    async def fetch() -> Fetched:
        return Fetched(b"fetched")

    for part in (membership, budget):
        await part.start()
        await part.close()
    await budget.throttled()
    await budget.take(Urgency.READ)
    await cache.read(CacheKey("balances", "balances"), fresh_for=60, fetch=fetch)
    await cache.close()
    idempotency = Idempotency(store, clock=clock, metrics=metrics, hold=10)
    for key in ("completed", "released"):
        claim = await idempotency.claim("orders", key, "fingerprint")
        assert isinstance(claim, Claim)
        await (claim.complete(Answer(b"{}", "/")) if key == "completed" else claim.release())
    await Orders(store).claim("orders", "order-1")
    order = await OrderSessions(store, clock=clock, hold=10).claim("orders", "order-1", "fingerprint")
    assert isinstance(order, OrderClaim)
    changes, agenda = Changes(store), Agenda(store, clock=clock)
    sessions = Sessions(store, changes=changes, agenda=agenda, metrics=metrics)
    session = Session(
        id=f"cs_{clock.token_hex(16)}",
        client_id="orders",
        price="1.00",
        currency="usd",
        order_id="order-1",
        payment_url="https://cloud.quantapay.app/pay.php",
        created_at=utc(clock.time()),
    )
    await sessions.create(session)
    await order.complete(session.id)
    await sessions.publish(session)
    await sessions.move(session.id, lambda known: replace(known, version=2, status=SessionStatus.PAID))
    assert len(await sessions.with_reference("order-1")) == 1
    assert (await changes.after(await changes.newest())).complete
    assert await agenda.take_due() is None
    await agenda.remove(session)
    await agenda.add(session)
    slots = StreamSlots(store, clock=clock, share=lambda: 1, metrics=metrics)
    slot = await slots.take("orders", subject="2001:db8::/64", session_id=session.id, most=2)
    await slots.take("orders", subject=None, session_id=session.id, most=2)
    await slot.release()


@pytest.mark.parametrize("shape", ["replicas", "cluster"])
async def test_all_that_is_kept_needs_only_the_documented_permissions_and_ends_by_itself(
    each_redis: RedisServers, shape: str
) -> None:
    """In a cluster also: the keys of each script share a slot."""
    if shape == "cluster":
        cluster = each_redis.cluster(primaries=1, replicas=True)
        [server], url = cluster.primaries, cluster.url
    else:
        server = each_redis.replicated(replicas=1).primary
        url = server.url
    async with running(url, deadline=PATIENT) as store:
        await until_back(store)
        await use_everything(store)
        assert store.up
    with server.client() as client:
        ends = {key.decode(): client.pttl(key) for key in client.scan_iter()}
        assert client.acl_log() == []
    kinds = {re.match(r"qpg:\{?[a-z]+", key).group() for key in ends.keys() - {"qpg:test", "qpg:probe"}}
    assert kinds == {
        "qpg:{orders", "qpg:{budget", "qpg:cache", "qpg:idempotency", "qpg:order", "qpg:session", "qpg:reference",
        "qpg:{sessions",
    }  # fmt: skip
    assert NO_END not in ends.values(), ends


def test_every_command_of_our_scripts_is_permitted_and_no_other() -> None:
    around_scripts = {"evalsha", "eval", "role", "wait", "select", "zrem"}
    sources = [path for pattern in ("*.py", "*.lua") for path in Path(str(files("gateway"))).rglob(pattern)]
    in_scripts = {
        name.lower() for path in sources for name in re.findall(r'redis\.p?call\("([A-Z]+)"', path.read_text())
    }
    permitted = {word.removeprefix("+") for word in PERMISSIONS.split() if word.startswith("+")}
    assert in_scripts | around_scripts == permitted


async def test_another_applications_keys_are_out_of_reach(redis_servers: RedisServers) -> None:
    server = redis_servers.plain().ready()
    async with running(server.url, deadline=PATIENT) as store:
        with pytest.raises(StorageUnavailable):
            await store.run(lambda client: client.set("theirs", 1))
        await until_back(store)
    [refusal] = server.ask("ACL", "LOG")
    assert refusal[b"object"] == b"theirs"
