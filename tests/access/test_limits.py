"""What a limit is named, and what a decision says."""

import pytest
from redis.crc import key_slot

from gateway.access.limits import Decision, Limit, Limits, Unlimited, client_limit, ip_limit
from gateway.quota import Quota
from tests.plugins.decisions import remaining, resets_after


def limit(text: str, name: str = "orders") -> Limit:
    return client_limit(name, Quota.parse(text))


def address_limit(text: str, subject: str = "192.0.2.1") -> Limit:
    return ip_limit("orders", subject, Quota.parse(text))


def test_a_client_limit_is_named_and_hash_tagged_by_its_client() -> None:
    first = limit("600/minute")
    assert (first.kind, first.policy, first.key) == ("client", "orders", "qpg:{orders}:rate:client")
    assert key_slot(first.key.encode()) == key_slot(address_limit("1/minute").key.encode())
    assert key_slot(first.key.encode()) != key_slot(limit("600/minute", "storefront").key.encode())


@pytest.mark.parametrize("subject", ["192.0.2.1", "2001:db8::/64", "unknown"])
def test_an_address_limit_lies_in_the_slot_of_its_client(subject: str) -> None:
    made = address_limit("60/minute", subject)
    assert (made.kind, made.policy, made.key) == ("ip", "orders-ip", f"qpg:{{orders}}:rate:ip:{subject}")
    assert made.quota == Quota(60, 60)
    assert key_slot(made.key.encode()) == key_slot(limit("1/minute").key.encode())


def test_limits_have_the_id_of_others_only_if_they_are_the_same() -> None:
    different = [
        Limits(),
        Limits(limit("600/minute")),
        Limits(limit("600/hour")),
        Limits(limit("601/minute")),
        Limits(limit("600/minute", "storefront")),
        Limits(address_limit("600/minute")),
        Limits(address_limit("600/minute"), limit("600/minute")),
        Limits(address_limit("600/minute", "192.0.2.2"), limit("600/minute")),
        Limits(address_limit("600/minute"), limit("601/minute")),
        Limits(address_limit("601/minute"), limit("600/minute")),
    ]
    assert len({limits.id for limits in different}) == len(different)
    assert Limits(address_limit("600/minute"), limit("600/minute")).id == different[6].id


def decision(*spent: tuple[Limit, int], allowed: bool = True) -> Decision:
    """Make one after which so many of each limit are spent."""
    limits = Limits(*(limit for limit, _ in spent))
    backlogs = [interval * number for interval, (_, number) in zip(limits.intervals, spent, strict=True)]
    return Decision(allowed, "redis", limits, limits.paces, backlogs)


def test_an_allowed_decision_prints_the_headers_of_the_interface() -> None:
    allowed = decision((limit("600/minute"), 1))
    assert allowed.headers() == [
        (b"ratelimit-policy", b'"orders";q=600;w=60'),
        (b"ratelimit", b'"orders";r=599;t=1'),
    ]
    assert (allowed.refused_by, allowed.retry_after) == (None, 0.0)


def test_a_refusal_says_which_limit_was_spent_and_when_to_come_back() -> None:
    narrow, wide = address_limit("30/minute"), limit("5/second")
    refusal = decision((wide, 0), (narrow, 30), allowed=False)
    assert remaining(refusal) == [5, 0]
    assert resets_after(refusal) == [0.0, 60.0]
    assert (refusal.refused_by, refusal.retry_after, refusal.retry_after_seconds) == (narrow, 2.0, 2)
    later = refusal.after(0.5)
    assert resets_after(later) == [0.0, 59.5]
    assert (later.refused_by, later.retry_after, later.retry_after_seconds) == (narrow, 1.5, 2)


def test_retry_after_is_at_least_a_second() -> None:
    refusal = decision((limit("500/second"), 500), allowed=False)
    assert refusal.retry_after == 0.002
    assert refusal.retry_after_seconds == 1


def test_a_policy_name_is_escaped_as_a_structured_field_string() -> None:
    odd = Limit("client", policy='a"b\\c', key="k", quota=Quota(1, 1))
    assert dict(decision((odd, 1)).headers())[b"ratelimit"] == b'"a\\"b\\\\c";r=0;t=1'


async def test_unlimited_lets_everything_through_and_says_nothing() -> None:
    decision = await Unlimited().take(Limits(limit("1/hour")))
    assert decision.allowed
    assert decision.headers() == []
