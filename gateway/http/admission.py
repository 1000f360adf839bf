"""How often a caller may come: what each request is counted against (interface §2.3).

A secret key is counted by its client. A browser is counted by its address first and then by its client, both in one
step, so that one visitor cannot spend the shop's share. What only looks like the shop's (a quote or a token that is
refused) costs the address alone.
"""

from collections.abc import Sequence

from fastapi import Request

from gateway.access.addresses import client_address, subject
from gateway.access.limits import Limit, client_limit, ip_limit
from gateway.config import Client, PublishableKeyClient
from gateway.errors import RateLimited
from gateway.http.services import Services
from gateway.quota import Quota
from gateway.settings.values import Address

NOBODY = "-"
"""Stands for the client of those who show a token that opens nothing; no client can have this id."""
WEBHOOK_SENDERS = "-webhooks"
"""Stands for the client of those who send webhooks with a wrong key; no client can have this id either."""
GUESSES = Quota(60, 60)
"""Tokens that open nothing, or wrong keys of webhooks, by address."""


def source_of(request: Request, services: Services) -> Address | None:
    """Return the address that a request comes from, through proxies that are trusted; None if there is none."""
    peer = request.client.host if request.client else None
    forwarded = request.headers.getlist("x-forwarded-for")
    return client_address(peer, forwarded, services.trusted_proxies)


def address_of(request: Request, services: Services) -> str:
    """Return what the limits call the caller's address: an IPv4 address, or the /64 of an IPv6 one."""
    return subject(source_of(request, services))


async def admit(request: Request, services: Services, client: Client) -> None:
    """Count a request of `client`; raise `RateLimited` if it is one too many."""
    limits = [client_limit(client.id, client.rate_limit)]
    if isinstance(client, PublishableKeyClient):
        await _take(services, [_of_address(request, services, client), *limits])
    else:
        # Told to servers only: to a page they would say how busy the shop is.
        await _take(services, limits, tell=request)


async def admit_refused(request: Request, services: Services, client: PublishableKeyClient | None) -> None:
    """Count a request that was found to be nobody's against its address; raise `RateLimited` if it is one too many."""
    if client is None:
        await _take(services, [ip_limit(NOBODY, address_of(request, services), GUESSES)])
    else:
        await _take(services, [_of_address(request, services, client)])


async def admit_wrong_key(request: Request, services: Services) -> None:
    """Count a webhook with a wrong key against its address; raise `RateLimited` if it is one too many."""
    await _take(services, [ip_limit(WEBHOOK_SENDERS, address_of(request, services), GUESSES)])


def _of_address(request: Request, services: Services, client: PublishableKeyClient) -> Limit:
    return ip_limit(client.id, address_of(request, services), client.rate_limit_per_ip)


async def _take(services: Services, limits: Sequence[Limit], *, tell: Request | None = None) -> None:
    decision = await services.limiter.take(limits)
    headers = decision.headers()
    if tell is not None:
        tell.state.answer_headers.update(headers)
    if not decision.allowed:
        raise RateLimited(retry_after=int(headers["Retry-After"]))
