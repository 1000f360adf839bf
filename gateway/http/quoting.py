"""A browser's order: read, counted, and let through only as the shop's server signed it (interface §3.5)."""

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from gateway.access.quotes import Quote, verify
from gateway.config import PublishableKeyClient
from gateway.errors import CallerError
from gateway.http.admission import admit, admit_refused
from gateway.http.call import Call


class Quoted(Protocol):
    """A request body that holds a quote, every text as it was sent."""

    price: str
    currency: str
    order_id: str
    timestamp: int
    signature: str


Body = TypeVar("Body", bound=Quoted)


async def admit_quoted(call: Call, client: PublishableKeyClient, read: Callable[[Call], Awaitable[Body]]) -> Body:
    """Return the body that `read` gives, once its quote is found good and the request is counted.

    What is refused costs the address alone. Raises what `read` raises, `InvalidQuote`, `QuoteExpired` and
    `RateLimited`, which goes before the others.
    """
    try:
        body = await read(call)
        quote = Quote(client.id, body.price, body.currency, body.order_id, body.timestamp)
        verify(quote, body.signature, client.quote_secret, now=call.services.clock.time())
    except CallerError:
        await admit_refused(call, client)
        raise
    await admit(call, client)
    return body
