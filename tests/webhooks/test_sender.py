"""One attempt to hand an event over, to real servers: signed, checked on the very address, and never held up."""

import asyncio
import contextlib
import json
import socket
import ssl
from email.utils import format_datetime

import pytest
from aiohttp.abc import AbstractResolver
from pydantic import SecretStr
from standardwebhooks import Webhook, WebhookVerificationError

from gateway import __version__
from gateway.clock import SystemClock, utc
from gateway.config import Subscriber
from gateway.telemetry.metrics import DELIVERY_OUTCOMES
from gateway.telemetry.spans import root
from gateway.webhooks.sender import Outcome, Result, Sender

OLD, NEW = (f"whsec_{letter * 42}A=" for letter in "CD")
MESSAGE = '{"type":"payment.completed","data":{"title":"Grüße"}}'
QUICK = 0.3
"""Seconds: the timeout of senders whose subscriber never answers."""

# A throwaway certificate for localhost and 127.0.0.1, good for these tests and nothing else.
CERTIFICATE = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgP0noCQbCX0HTZnyG
gLrFq6yCab7g8YNw8ugNksc1m6OhRANCAAQy5DP1e54gEA4qUIuAMmTL3/VSHyjx
2cQqCc05BvfY/zBEcQKdLlEvPZvKQBtsfQegS5/RBCTGIkme/RQ0anC9
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBZzCCAQ2gAwIBAgIBATAKBggqhkjOPQQDAjAUMRIwEAYDVQQDDAlsb2NhbGhv
c3QwIBcNMjAwMTAxMDAwMDAwWhgPMjEyMDAxMDEwMDAwMDBaMBQxEjAQBgNVBAMM
CWxvY2FsaG9zdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABDLkM/V7niAQDipQ
i4AyZMvf9VIfKPHZxCoJzTkG99j/MERxAp0uUS89m8pAG2x9B6BLn9EEJMYiSZ79
FDRqcL2jTjBMMBoGA1UdEQQTMBGCCWxvY2FsaG9zdIcEfwAAATAPBgNVHRMBAf8E
BTADAQH/MB0GA1UdDgQWBBSnHskndTiCvRPem4fcnmyRDQf0gzAKBggqhkjOPQQD
AgNIADBFAiEAmpU7MNXENqdS1lrJj3xZgm9Fs2oYaLi/FacX29IBATECIEqkkN1W
ggbY/KFb+mlXLj5+/bh02ULpiATsaHnuEILE
-----END CERTIFICATE-----
"""


class Names(AbstractResolver):
    """Says where names lead, one list of addresses after the other, and the last for ever."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = 0

    async def resolve(self, host, port=0, family=socket.AF_INET):
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return [{"hostname": host, "host": ip, "port": port, "family": family, "proto": 0, "flags": 0} for ip in answer]

    async def close(self):
        pass


@pytest.fixture
async def make_sender():
    async with contextlib.AsyncExitStack() as stack:

        def make(*, clock=None, **options):
            sender = Sender(clock=clock or SystemClock(), **options)
            stack.push_async_callback(sender.close)
            return sender

        yield make


@pytest.fixture
def sender(make_sender):
    return make_sender()


def to(url, *secrets):
    """Return a subscriber at a URL, even one that a configuration could not have."""
    return Subscriber.model_construct(id="orders", url=url, secret=tuple(map(SecretStr, secrets or (NEW,))), events=())


def answer(status, *headers, body=b""):
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


async def test_an_event_arrives_as_it_is_with_a_signature_that_the_public_library_accepts(sender, hook):
    result = await sender.send(to(hook.url + "/quantapay?a=%2F"), "msg_1", MESSAGE)
    assert result == Result(Outcome.DELIVERED, status=204)
    [request] = hook.requests
    assert request.path == "/hooks/quantapay?a=%2F"
    assert request.body == MESSAGE.encode()
    assert Webhook(NEW).verify(request.body, request.headers) == json.loads(MESSAGE)
    with pytest.raises(WebhookVerificationError):
        Webhook(NEW).verify(request.body.replace(b"completed", b"refunded"), request.headers)
    del request.headers["webhook-signature"], request.headers["webhook-timestamp"], request.headers[""]
    assert request.headers == {
        "host": f"127.0.0.1:{hook.port}",
        "webhook-id": "msg_1",
        "content-type": "application/json",
        "content-length": str(len(MESSAGE.encode())),
        "user-agent": f"quantapay-gateway/{__version__}",
        "connection": "close",
    }


async def test_a_subscriber_is_told_of_the_trace(sender, hook):
    traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    with root(None, "deliver", kind="producer", traceparent=traceparent):
        await sender.send(to(hook.url), "msg_1", MESSAGE)
    assert hook.requests[0].headers["traceparent"] == traceparent


async def test_while_a_secret_is_rotated_either_verifies_and_no_other(sender, hook):
    await sender.send(to(hook.url, OLD, NEW), "msg_1", MESSAGE)
    [request] = hook.requests
    for secret in (OLD, NEW):
        Webhook(secret).verify(request.body, request.headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(f"whsec_{'E' * 42}A=").verify(request.body, request.headers)


async def test_each_attempt_is_signed_with_its_own_time(make_sender, hook):
    class Held(SystemClock):
        now = 1_700_000_000.9

        def time(self):
            return self.now

    sender = make_sender(clock=Held())
    await sender.send(to(hook.url), "msg_1", MESSAGE)
    Held.now += 5
    await sender.send(to(hook.url), "msg_1", MESSAGE)
    assert [request.headers["webhook-timestamp"] for request in hook.requests] == ["1700000000", "1700000005"]
    assert len({request.headers["webhook-signature"] for request in hook.requests}) == 2


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
async def test_2xx_is_a_delivery(sender, hook, status):
    hook.answer = answer(status)
    assert await sender.send(to(hook.url), "msg_1", MESSAGE) == Result(Outcome.DELIVERED, status=status)


@pytest.mark.parametrize("status", [300, 304, 400, 401, 404, 429, 500, 503, 599])
async def test_any_other_status_is_a_refusal(sender, hook, status):
    hook.answer = answer(status)
    assert await sender.send(to(hook.url), "msg_1", MESSAGE) == Result(Outcome.REFUSED, str(status), status=status)


async def test_gone_is_a_refusal_that_says_so(sender, hook):
    hook.answer = answer(410)
    assert await sender.send(to(hook.url), "msg_1", MESSAGE) == Result(Outcome.REFUSED, "410 gone", status=410)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(sender, hook, hook_servers, status):
    elsewhere = await hook_servers()
    hook.answer = answer(status, f"Location: {elsewhere.url}")
    assert await sender.send(to(hook.url), "msg_1", MESSAGE) == Result(Outcome.REFUSED, str(status), status=status)
    assert (len(hook.requests), elsewhere.connections) == (1, 0)


async def test_retry_after_is_told_in_seconds(sender, hook):
    hook.answer = answer(503, "Retry-After: 120")
    assert (await sender.send(to(hook.url), "msg_1", MESSAGE)).retry_after == 120
    in_an_hour = format_datetime(utc(SystemClock().time() + 3600), usegmt=True)
    hook.answer = answer(429, f"Retry-After: {in_an_hour}")
    assert (await sender.send(to(hook.url), "msg_1", MESSAGE)).retry_after == pytest.approx(3600, abs=60)


@pytest.mark.parametrize("status", [200, 500])
async def test_a_body_without_end_is_not_read(sender, hook, status):
    written = 0

    async def flood(_request, writer):
        nonlocal written
        writer.write(f"HTTP/1.1 {status} Whatever\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        while True:
            writer.write(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
            written += 0x10000
            await writer.drain()

    hook.answer = flood
    assert (await sender.send(to(hook.url), "msg_1", MESSAGE)).status == status
    async with asyncio.timeout(10):
        while hook.open:
            await asyncio.sleep(0.01)
    assert written < 50 * 2**20  # as much as the sockets hold, not as much as there is


async def test_a_body_is_not_unpacked(sender, hook):
    hook.answer = answer(200, "Content-Encoding: gzip", body=b"not gzip at all")
    assert (await sender.send(to(hook.url), "msg_1", MESSAGE)).outcome is Outcome.DELIVERED


async def test_a_body_that_never_comes_is_not_waited_for(make_sender, hook):
    hook.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"
    result = await make_sender(timeout=30).send(to(hook.url), "msg_1", MESSAGE)
    assert result.outcome is Outcome.DELIVERED


async def dribble(_request, writer):
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"X-More: of it\r\n")
        await writer.drain()
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("how", ["silent", "dribbling"])
async def test_who_does_not_answer_in_time_has_timed_out_and_is_hung_up_on(make_sender, hook, how):
    hook.answer = hook.hang if how == "silent" else dribble
    result = await make_sender(timeout=QUICK).send(to(hook.url), "msg_1", MESSAGE)
    assert result == Result(Outcome.TIMEOUT, "timeout")


async def test_the_time_limit_covers_the_look_up_of_the_name(make_sender, hook):
    class Slow(Names):
        async def resolve(self, host, port=0, family=socket.AF_INET):
            await asyncio.Event().wait()

    result = await make_sender(timeout=QUICK, resolver=Slow()).send(to("http://orders.internal/"), "msg_1", MESSAGE)
    assert result == Result(Outcome.TIMEOUT, "timeout")


async def hang_up(_request, writer):
    writer.close()


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("reset", "connection lost"),
        (hang_up, "connection lost"),
        (b"HTTP/1.1 2xx Fine\r\n\r\n", "answer is not HTTP"),
        (b"SSH-2.0-whatever\r\n\r\n", "answer is not HTTP"),
        (b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 100_000 + b"\r\n\r\n", "answer is not HTTP"),
    ],
)
async def test_who_answers_nothing_that_is_http_is_unreachable(sender, hook, what, error):
    hook.answer = hook.reset if what == "reset" else what
    assert await sender.send(to(hook.url), "msg_1", MESSAGE) == Result(Outcome.UNREACHABLE, error)
    assert hook.connections == 1  # nothing is sent again


async def test_a_port_that_nobody_listens_at_is_unreachable(sender):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/"
    assert await sender.send(to(url), "msg_1", MESSAGE) == Result(Outcome.UNREACHABLE, "connection refused")


@pytest.mark.parametrize(
    ("fault", "error"),
    [(OSError("no such name"), "name not found"), (RuntimeError("of uvloop"), "no connection")],
)
async def test_a_name_that_leads_nowhere_is_unreachable(make_sender, fault, error):
    sender = make_sender(resolver=Names(fault))
    result = await sender.send(to("https://orders.example/"), "msg_1", MESSAGE)
    assert result == Result(Outcome.UNREACHABLE, error)


async def test_no_proxy_and_no_login_is_taken_from_the_surroundings(sender, hook, monkeypatch, tmp_path):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login someone password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/")
        monkeypatch.setenv(name.upper(), "http://127.0.0.1:9/")
    assert (await sender.send(to(hook.url), "msg_1", MESSAGE)).outcome is Outcome.DELIVERED
    assert "authorization" not in hook.requests[0].headers


async def test_cookies_are_not_kept(sender, hook):
    hook.answer = answer(200, "Set-Cookie: a=b; Path=/")
    for _ in range(2):
        await sender.send(to(hook.url), "msg_1", MESSAGE)
    assert "cookie" not in hook.requests[1].headers


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "169.254.1.1",
        "100.100.100.200",
        "224.0.0.1",
        "0.0.0.0",
        "[::]",
        "[fe80::1]",
        "[ff02::1]",
        "[fd00:ec2::254]",
        "[::ffff:169.254.169.254]",
        "[::ffff:0.0.0.0]",
        "0xa9fea9fe",
        "2852039166",
        "127.1",
    ],
)
async def test_nothing_is_sent_to_forbidden_addresses(sender, hook, scheme, host):
    result = await sender.send(to(f"{scheme}://{host}:{hook.port}/"), "msg_1", MESSAGE)
    assert result == Result(Outcome.FORBIDDEN, "forbidden address")
    assert hook.connections == 0  # 0.0.0.0 and its like would have led there


@pytest.mark.parametrize("ip", ["169.254.169.254", "0.0.0.0", "::", "::ffff:169.254.169.254", "fe80::1%1"])
async def test_a_name_that_leads_to_a_forbidden_address_is_no_way_around(make_sender, hook, ip):
    sender = make_sender(resolver=Names([ip]))
    result = await sender.send(to(f"http://orders.internal:{hook.port}/"), "msg_1", MESSAGE)
    assert result == Result(Outcome.FORBIDDEN, "forbidden address")
    assert hook.connections == 0


async def test_a_name_that_leads_to_several_forbidden_addresses_is_none_either(make_sender, hook):
    sender = make_sender(resolver=Names(["0.0.0.0", "::", "169.254.169.254"]))
    result = await sender.send(to(f"http://orders.internal:{hook.port}/"), "msg_1", MESSAGE)
    assert result.outcome is Outcome.FORBIDDEN
    assert hook.connections == 0


async def test_of_the_addresses_of_a_name_only_the_good_ones_are_used(make_sender, hook):
    sender = make_sender(resolver=Names(["169.254.169.254", "127.0.0.1"]))
    result = await sender.send(to(f"http://orders.internal:{hook.port}/"), "msg_1", MESSAGE)
    assert result.outcome is Outcome.DELIVERED
    assert len(hook.requests) == 1


async def test_a_name_that_leads_elsewhere_the_next_time_is_checked_again(make_sender, hook):
    names = Names(["127.0.0.1"], ["0.0.0.0"])
    sender = make_sender(resolver=names)
    subscriber = to(f"http://orders.internal:{hook.port}/")
    assert (await sender.send(subscriber, "msg_1", MESSAGE)).outcome is Outcome.DELIVERED
    for session in sender._sessions.values():
        session.connector.clear_dns_cache()  # as it is by itself after ten seconds
    assert (await sender.send(subscriber, "msg_2", MESSAGE)).outcome is Outcome.FORBIDDEN
    assert names.asked == 2
    assert hook.ids == ["msg_1"]


async def test_plain_http_goes_to_private_addresses_only(make_sender):
    sender = make_sender(resolver=Names(["203.0.113.1"]), timeout=QUICK)  # of documentation: nobody is there
    result = await sender.send(to("http://orders.internal/"), "msg_1", MESSAGE)
    assert result == Result(Outcome.FORBIDDEN, "forbidden address")
    result = await sender.send(to("https://orders.internal/"), "msg_1", MESSAGE)
    assert result.outcome in {Outcome.TIMEOUT, Outcome.UNREACHABLE}


async def test_certificates_are_verified_and_so_are_their_names(make_sender, hook_servers, tmp_path):
    certificate = tmp_path / "certificate.pem"
    certificate.write_text(CERTIFICATE)
    server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_side.load_cert_chain(certificate)
    hook = await hook_servers(tls=server_side)
    url, not_valid = hook.url.replace("http:", "https:"), Result(Outcome.UNREACHABLE, "certificate not valid")

    assert await make_sender().send(to(url), "msg_1", MESSAGE) == not_valid
    trusting = make_sender(ssl_context=ssl.create_default_context(cafile=certificate), resolver=Names(["127.0.0.1"]))
    assert await trusting.send(to(f"https://other.example:{hook.port}/"), "msg_2", MESSAGE) == not_valid
    assert (await trusting.send(to(url), "msg_3", MESSAGE)).outcome is Outcome.DELIVERED
    assert hook.ids == ["msg_3"]


async def test_a_server_without_tls_is_unreachable_by_https(sender):
    async def speak_plainly(_reader, writer):
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(speak_plainly, "127.0.0.1", 0) as server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        result = await sender.send(to(url), "msg_1", MESSAGE)
    assert result.outcome is Outcome.UNREACHABLE
    assert result.error in {"no TLS connection", "no connection", "connection lost"}  # whatever is noticed first


def test_every_outcome_is_one_of_the_metric():
    assert {outcome.value for outcome in Outcome} == set(DELIVERY_OUTCOMES) - {"dead"}
