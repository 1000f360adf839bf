"""Where a request comes from: nobody can claim an address, however many headers they send (interface §2.1)."""

import ipaddress
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.access.addresses import MOST_HOPS, client_address, subject

TRUSTED = [ip_network("10.0.0.0/8"), ip_network("2001:db8:1::/48"), ip_network("127.0.0.1/32")]
PROXY = "10.0.0.1"

V4 = st.ip_addresses(v=4)
ANY = st.ip_addresses().map(str)
OUTSIDE = V4.filter(lambda ip: not any(ip in network for network in TRUSTED))


def seen(peer: str | None, *forwarded: str) -> str:
    return str(client_address(peer, forwarded, TRUSTED))


@pytest.mark.parametrize("peer", ["192.0.2.1", "10.0.0.1", "2001:db8::1", "2001:db8:1::1"])
def test_without_the_header_it_is_the_peer(peer: str) -> None:
    assert seen(peer) == peer


@pytest.mark.parametrize("peer", ["192.0.2.1", "11.0.0.1", "2001:db8:2::1", "::ffff:192.0.2.1"])
def test_a_peer_that_is_not_trusted_is_not_believed(peer: str) -> None:
    assert seen(peer, "203.0.113.7") == seen(peer)


def test_without_trusted_proxies_nobody_is_believed() -> None:
    assert str(client_address(PROXY, ["203.0.113.7"], [])) == PROXY


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        (["203.0.113.7"], "203.0.113.7"),
        (["198.51.100.1, 203.0.113.7"], "203.0.113.7"),
        (["198.51.100.1,203.0.113.7 ,\t10.9.9.9"], "203.0.113.7"),
        (["10.0.0.66, 203.0.113.7, 10.9.9.9, 127.0.0.1"], "203.0.113.7"),
        (["198.51.100.1", "203.0.113.7"], "203.0.113.7"),
        (["203.0.113.7", "10.9.9.9", "10.8.8.8, 10.7.7.7"], "203.0.113.7"),
        (["10.9.9.9, 10.8.8.8"], "10.9.9.9"),
        (["10.9.9.9", "10.8.8.8"], "10.9.9.9"),
        (["2001:db8:2::7, 2001:db8:1::9"], "2001:db8:2::7"),
    ],
)
def test_it_is_the_nearest_address_outside_the_trusted_networks(forwarded: list[str], client: str) -> None:
    assert seen(PROXY, *forwarded) == client


@pytest.mark.parametrize(
    ("entry", "client"),
    [
        ("203.0.113.7:4711", "203.0.113.7"),
        ("[2001:db8:2::7]", "2001:db8:2::7"),
        ("[2001:db8:2::7]:4711", "2001:db8:2::7"),
        ("2001:DB8:2:0::7", "2001:db8:2::7"),
        ("fe80::1%eth0", "fe80::1"),
        ("[fe80::1%25eth0]:80", "fe80::1"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("[::FFFF:cb00:7107]:80", "203.0.113.7"),
    ],
)
def test_addresses_are_read_as_proxies_write_them(entry: str, client: str) -> None:
    assert seen(PROXY, entry) == client
    assert seen(PROXY, f"198.51.100.1, {entry}, 10.9.9.9") == client


@pytest.mark.parametrize(
    "entry",
    [
        "", " ", "unknown", "_hidden", "203.0.113", "203.0.113.007", "203.0.113.256", "203.0.113.7:", "203.0.113.7:x",
        "203.0.113.7:123456", "203.0.113.7/32", "3405803783", "0xcb007107", "２０３.0.113.7", "[2001:db8:2::7]x",
        "2001:db8:2::7::1", "[]", "[]:80", "localhost", "203.0.113.7 198.51.100.1", "for=203.0.113.7", "203.0.113.7;",
        '"203.0.113.7"', "203.0.113.7\x00", "a" * 60_000, "1." * 30_000, ":" * 60_000,
    ],
)  # fmt: skip
def test_behind_an_entry_that_cannot_be_read_nothing_is_believed(entry: str) -> None:
    assert seen(PROXY, f"198.51.100.1, {entry}") == PROXY
    assert seen(PROXY, f"198.51.100.1, {entry}, 10.9.9.9") == "10.9.9.9"
    assert seen(PROXY, "198.51.100.1", entry) == PROXY


def test_a_peer_in_ipv6_clothes_is_trusted_as_the_ipv4_address_it_is() -> None:
    assert seen("::ffff:10.0.0.1", "203.0.113.7") == "203.0.113.7"
    assert seen("::ffff:192.0.2.1") == "192.0.2.1"
    assert seen(PROXY, "203.0.113.7, ::ffff:10.9.9.9") == "203.0.113.7"


@pytest.mark.parametrize("peer", [None, "", "testclient", "/run/gateway.sock"])
def test_a_peer_without_an_address_has_none_and_is_not_believed(peer: str | None) -> None:
    assert client_address(peer, ["203.0.113.7"], [ip_network("0.0.0.0/0")]) is None


@given(st.lists(st.one_of(ANY, st.text(max_size=20)), max_size=12), OUTSIDE, st.lists(st.just("10.9.9.9"), max_size=5))
def test_whatever_a_client_sends_the_entry_of_the_outermost_proxy_counts(claimed, client, proxies) -> None:
    """A trusted proxy adds where it was called from, and what stands left of that is the client's invention."""
    header = ", ".join([*claimed, str(client), *proxies])
    assert client_address(PROXY, [header], TRUSTED) == client
    assert client_address(PROXY, [*claimed, str(client), *proxies], TRUSTED) == client


@given(st.text(max_size=60), st.lists(st.text(max_size=60), max_size=4))
def test_no_text_breaks_it(peer: str, forwarded: list[str]) -> None:
    for name in (peer, PROXY):
        assert "{" not in subject(client_address(name, forwarded, TRUSTED))


def test_a_long_header_costs_no_more_than_its_length() -> None:
    trusted = ",".join(["10.9.9.9"] * 10_000)
    assert seen(PROXY, "203.0.113.7," + trusted) == "10.9.9.9"
    assert seen(PROXY, *["10.9.9.9"] * 10_000) == "10.9.9.9"
    assert seen(PROXY, ",".join(["203.0.113.7", *["10.9.9.9"] * (MOST_HOPS - 1)])) == "203.0.113.7"
    assert seen(PROXY, ",".join(["203.0.113.7", *["10.9.9.9"] * MOST_HOPS])) == "10.9.9.9"


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("2001:db8:2:3:4:5:6:7", "2001:db8:2:3::/64"),
        ("2001:db8::1", "2001:db8::/64"),
        ("::1", "::/64"),
        ("fe80::1", "fe80::/64"),
    ],
)
def test_limits_count_ipv4_whole_and_ipv6_by_its_64(address: str, counted: str) -> None:
    assert subject(ipaddress.ip_address(address)) == counted


def test_who_has_no_address_is_counted_with_the_others_of_that_kind() -> None:
    assert subject(None) == "unknown"


@given(st.ip_addresses(v=6), st.integers(0, 2**64 - 1))
def test_all_addresses_of_a_64_are_one_subject(address: ipaddress.IPv6Address, host: int) -> None:
    neighbour = ipaddress.IPv6Address(int(address) >> 64 << 64 | host)
    assert subject(address) == subject(neighbour)
    assert subject(address) != subject(ipaddress.IPv6Address(int(address) ^ 1 << 64))
