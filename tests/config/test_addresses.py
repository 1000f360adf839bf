"""Where payment events may go, and how."""

import ipaddress

import pytest

from gateway.config.addresses import is_forbidden_host, is_near, is_private_address


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254", "169.254.0.1", "fe80::1", "::ffff:169.254.169.254", "fd00:ec2::254", "100.100.100.200",
        "fd00:ec2::23", "fd20:ce::254", "fd00:ec2::254%1", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::", "::a9fe:a9fe",
        "0.0.0.0", "::", "224.0.0.1", "metadata", "metadata.google.internal", "2852039166", "0xa9fea9fe", "127.1",
    ],
)  # fmt: skip
def test_link_local_metadata_and_odd_addresses_are_forbidden(host: str) -> None:
    assert is_forbidden_host(host)


@pytest.mark.parametrize("host", ["orders.internal", "10.0.0.1", "127.0.0.1", "::1", "203.0.113.9", "shop.example"])
def test_ordinary_hosts_are_not_forbidden(host: str) -> None:
    assert not is_forbidden_host(host)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.9", "::1", "10.1.2.3", "fd12::1", "orders", "a.svc", "b.local"])
def test_plain_http_is_fine_to_near_hosts(host: str) -> None:
    assert is_near(host)


@pytest.mark.parametrize("host", ["shop.example", "203.0.113.9", "2001:db8::1", "localhost.example"])
def test_plain_http_is_not_fine_to_far_hosts(host: str) -> None:
    assert not is_near(host)


def test_an_ipv4_address_in_ipv6_clothes_is_private_as_itself() -> None:
    assert is_private_address(ipaddress.ip_address("::ffff:10.0.0.1"))
    assert not is_private_address(ipaddress.ip_address("::ffff:203.0.113.9"))
