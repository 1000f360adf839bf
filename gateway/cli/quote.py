"""`quote`: signing a browser's order, for trying out; a shop's server does it itself (docs/quotes.md)."""

import json
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from gateway.access.quotes import MOST_AGE, Quote, sign
from gateway.cli.common import config_or_refuse, settings_or_refuse
from gateway.clock import SystemClock
from gateway.config import Config, PublishableKeyClient, SecretKeyClient
from gateway.http.problems import faults_of
from gateway.routes.checkout_sessions.models import CheckoutSessionRequest


def quote(
    client: Annotated[str, typer.Option(help="The client's id in gateway.yaml.", metavar="ID")],
    price: Annotated[str, typer.Option(help="Decimal text, such as 49.99.")],
    currency: Annotated[str, typer.Option(help="Its code, such as usd.")],
    order_id: Annotated[str, typer.Option(help="The shop's own reference.")],
    config: Annotated[
        Path | None,
        typer.Option(help="The configuration file, instead of GATEWAY_CONFIG.", exists=True, dir_okay=False),
    ] = None,
) -> None:
    """Sign an order with a client's quote secret and print it, ready to be sent by a browser.

    Needs only gateway.yaml and the secrets that it refers to. The answer is on one line; hints go to stderr.

    \b
    Examples:
      quantapay-gateway quote --client storefront \\
        --price 49.99 --currency usd --order-id ORD-1
      curl http://127.0.0.1:8080/checkout-sessions \\
        -H "Authorization: Bearer $PUBLISHABLE_KEY" \\
        -H 'Origin: https://shop.example' -H 'Content-Type: application/json' \\
        -d "$(quantapay-gateway quote --client storefront …)"
    """
    shop = _front_end(config_or_refuse(settings_or_refuse(asks_quantapay=False), config), client)
    _check(price, currency, order_id)
    order = Quote(shop.id, price, currency, order_id, int(SystemClock().time()))
    body = {
        "price": order.price,
        "currency": order.currency,
        "order_id": order.order_id,
        "timestamp": order.timestamp,
        "signature": sign(order, shop.quote_secret[0]),
    }
    # In ASCII: a terminal's encoding must not change what was signed.
    typer.echo(json.dumps(body))
    typer.echo(
        f"\nGood for {MOST_AGE // 60} minutes. Send it to POST /checkout-sessions as application/json, with:\n"
        f"  Authorization: Bearer {shop.publishable_key[0]}\n  Origin: {shop.origins[0]}",
        err=True,
    )


def _front_end(config: Config, client_id: str) -> PublishableKeyClient:
    """Return the client if it can have quotes, else end with 2 and what to do."""
    found = next((client for client in config.clients if client.id == client_id), None)
    if isinstance(found, PublishableKeyClient) and found.quote_secret:
        return found
    if isinstance(found, PublishableKeyClient):
        problem = "the client has no `quote_secret` in gateway.yaml; `openssl rand -hex 32` makes a good one"
    elif isinstance(found, SecretKeyClient):
        problem = "the client has a secret key, which needs no quote: send the order with that key"
    elif known := [client.id for client in config.clients if isinstance(client, PublishableKeyClient)]:
        problem = f"no such client; those with a publishable key are: {', '.join(known)}"
    else:
        problem = "no client has a publishable key; name the right gateway.yaml with --config or GATEWAY_CONFIG"
    raise typer.BadParameter(problem, param_hint="--client")


def _check(price: str, currency: str, order_id: str) -> None:
    """End with 2 if the gateway would not take an order like this."""
    try:
        CheckoutSessionRequest(price=price, currency=currency, order_id=order_id)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        option = str(first["loc"][0]).replace("_", "-")
        raise typer.BadParameter(faults_of([first])[0].detail, param_hint=f"--{option}") from None
