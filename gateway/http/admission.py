"""How often a caller may come: what each request is counted against (interface §2.3).

A secret key is counted by its client. A browser is counted by its address first and then by its client, both in one
step, so that one visitor cannot spend the shop's share. What only looks like the shop's (a quote or a token that is
refused) costs the address alone.
"""

from collections.abc import Awaitable

from gateway.access.addresses import client_address, subject
from gateway.access.limits import Limit, Limits, client_limit, client_limits, ip_limit
from gateway.config import Client, PublishableKeyClient
from gateway.errors import RateLimited
from gateway.http import headers
from gateway.http.call import Call
from gateway.quota import Quota
from gateway.settings.values import Address

NOBODY = "-"
"""Stands for the client of those who show a token that opens nothing; no client can have this id."""
WEBHOOK_SENDERS = "-webhooks"
"""Stands for the client of those who send webhooks with a wrong key; no client can have this id either."""
GUESSES = Quota(60, 60)
"""Tokens that open nothing, or wrong keys of webhooks, by address."""


def source_of(call: Call) -> Address | None:
    """Return the address that a request comes from, through proxies that are trusted; None if there is none."""
    peer = call.client.host if call.client else None
    return client_address(peer, headers.all_of(call.scope, b"x-forwarded-for"), call.services.trusted_proxies)


def address_of(call: Call) -> str:
    """Return what the limits call the caller's address: an IPv4 address, or the /64 of an IPv6 one."""
    return subject(source_of(call))


def admit(call: Call, client: Client) -> Awaitable[None]:
    """Count a request of `client`; raise `RateLimited` if it is one too many."""
    if isinstance(client, PublishableKeyClient):
        return _take(call, Limits(_of_address(call, client), client_limit(client.id, client.rate_limit)))
    # Told to servers only: to a page they would say how busy the shop is.
    return _take(call, client_limits(client.id, client.rate_limit), tell=True)


async def admit_refused(call: Call, client: PublishableKeyClient | None) -> None:
    """Count a request that was found to be nobody's against its address; raise `RateLimited` if it is one too many."""
    if client is None:
        await _take(call, Limits(ip_limit(NOBODY, address_of(call), GUESSES)))
    else:
        await _take(call, Limits(_of_address(call, client)))


async def admit_wrong_key(call: Call) -> None:
    """Count a webhook with a wrong key against its address; raise `RateLimited` if it is one too many."""
    await _take(call, Limits(ip_limit(WEBHOOK_SENDERS, address_of(call), GUESSES)))


def _of_address(call: Call, client: PublishableKeyClient) -> Limit:
    return ip_limit(client.id, address_of(call), client.rate_limit_per_ip)


async def _take(call: Call, limits: Limits, *, tell: bool = False) -> None:
    decision = await call.services.limiter.take(limits)
    if tell:
        call.answer_headers.extend(decision.headers())
    if not decision.allowed:
        raise RateLimited(retry_after=decision.retry_after_seconds)
