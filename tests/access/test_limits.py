"""What a limit is named, and what a decision says."""

import pytest
from redis.crc import key_slot

from gateway.access.limits import Decision, Limit, LimitState, Unlimited, client_limit, ip_limit
from gateway.quota import Quota


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


def test_an_allowed_decision_prints_the_headers_of_the_interface() -> None:
    state = LimitState(limit("600/minute"), remaining=599, resets_after=0.1)
    assert Decision(allowed=True, states=(state,), store="redis").headers() == [
        (b"ratelimit-policy", b'"orders";q=600;w=60'),
        (b"ratelimit", b'"orders";r=599;t=1'),
    ]


def test_a_refusal_of_several_limits_prints_one_item_each_and_when_to_come_back() -> None:
    states = (
        LimitState(address_limit("60/minute"), remaining=0, resets_after=60.0),
        LimitState(limit("5/second"), remaining=5, resets_after=0.0),
    )
    refusal = Decision(allowed=False, states=states, store="local", retry_after=1.01, refused_by=states[0].limit)
    assert refusal.headers() == [
        (b"ratelimit-policy", b'"orders-ip";q=60;w=60, "orders";q=5;w=1'),
        (b"ratelimit", b'"orders-ip";r=0;t=60, "orders";r=5;t=0'),
    ]
    assert refusal.retry_after_seconds == 2


def test_retry_after_is_at_least_a_second() -> None:
    refusal = Decision(allowed=False, states=(), store="local", retry_after=0.002)
    assert refusal.retry_after_seconds == 1


def test_a_policy_name_is_escaped_as_a_structured_field_string() -> None:
    odd = Limit("client", policy='a"b\\c', key="k", quota=Quota(1, 1))
    decision = Decision(allowed=True, states=(LimitState(odd, 0, 1.0),), store="redis")
    assert dict(decision.headers())[b"ratelimit"] == b'"a\\"b\\\\c";r=0;t=1'


async def test_unlimited_lets_everything_through_and_says_nothing() -> None:
    decision = await Unlimited().take([limit("1/hour")])
    assert decision.allowed
    assert decision.headers() == []
