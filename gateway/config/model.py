"""What gateway.yaml says, as frozen values (interface §2.2). Unknown keys are errors.

The classes check one value at a time. What concerns several (unique ids, different secrets) is checked in
`unique.py`, when a whole file is loaded.
"""

from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)

from gateway.config import fields
from gateway.quota import Quota
from gateway.settings.faults import refusal


class Scope(StrEnum):
    """What a client may do."""

    BALANCES_READ = "balances:read"
    RATES_READ = "rates:read"
    TRANSACTIONS_READ = "transactions:read"
    CHECKOUT_SESSIONS_READ = "checkout-sessions:read"
    CHECKOUT_SESSIONS_WRITE = "checkout-sessions:write"
    FUNCTIONS_CALL = "functions:call"


PUBLISHABLE_SCOPES = frozenset({Scope.RATES_READ, Scope.CHECKOUT_SESSIONS_WRITE})
"""All that a key which stands in a web page may ever do."""

EventName = Literal[
    "payment.completed",
    "payment.mismatched",
    "payment.unmatched",
    "payment.duplicate",
    "payment.underpaid",
    "payment.refunded",
]
"""The payment events of interface §3.8."""

PageFunction = Literal[
    "get-balances",
    "get-credit-balance",
    "get-exchange-rates",
    "create-checkout-session",
    "get-transactions",
    "get-transaction",
]
"""QuantaPay's functions that the gateway's own routes call (interface §3)."""

CREATE_FUNCTION: PageFunction = "create-checkout-session"


def _publishable_scope(scope: Scope) -> Scope:
    if scope not in PUBLISHABLE_SCOPES:
        raise refusal(f"a publishable key can hold only {' and '.join(sorted(PUBLISHABLE_SCOPES))}")
    return scope


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class SecretKeyClient(_Section):
    """An internal service: it keeps its key to itself."""

    id: Annotated[fields.Id, Field(examples=["orders"])]
    """The client's name in logs, metrics and rate limits; unique among clients."""
    key_sha256: Annotated[
        tuple[fields.KeyHash, ...],
        fields.OneOrTwo(),
        Field(examples=["7b0c1e0a4c1e2d3f5a6b7c8d9e0f1a2b3c4d5e6f708192a3b4c5d6e7f8091a2b"]),
    ]
    """SHA-256 of the client's key in hex, from `keys new`; two while the key is rotated."""
    scopes: Annotated[
        tuple[Scope, ...], Field(min_length=1, examples=["balances:read"]), AfterValidator(fields.distinct)
    ]
    """What the client may do."""
    rate_limit: Annotated[fields.Rate, Field(examples=["600/minute"])] = Quota(600, 60)
    """Requests of the client, over all replicas together."""


class PublishableKeyClient(_Section):
    """A browser front end: its key stands in the page, so each order needs a quote that the shop's server signed."""

    id: Annotated[fields.Id, Field(examples=["storefront"])]
    """The client's name in logs, metrics and rate limits; unique among clients."""
    publishable_key: Annotated[
        tuple[fields.PublishableKey, ...],
        fields.OneOrTwo(),
        Field(examples=["qpk_AbCdEfGhIjKlMnOpQrStUvWxYz0123456789_-AbCdE"]),
    ]
    """The key, from `keys new --publishable`; two while it is rotated."""
    origins: Annotated[
        tuple[fields.Origin, ...],
        Field(min_length=1, examples=["https://shop.example"]),
        AfterValidator(fields.distinct),
    ]
    """The exact origins of the pages that may use the key; https, plain http only on loopback."""
    quote_secret: Annotated[
        tuple[fields.QuoteSecret, ...], fields.OneOrTwo(), Field(examples=["${STOREFRONT_QUOTE_SECRET}"])
    ] = ()
    """Signs the shop's quotes; at least 32 characters, two while rotated. `checkout-sessions:write` needs it."""
    scopes: Annotated[
        tuple[Annotated[Scope, AfterValidator(_publishable_scope)], ...],
        Field(min_length=1, examples=["rates:read"]),
        AfterValidator(fields.distinct),
    ]
    """What the client may do: `rates:read`, `checkout-sessions:write` or both."""
    currencies: Annotated[tuple[fields.Currency, ...], AfterValidator(fields.distinct), Field(examples=["usd"])] = ()
    """The currencies that it may ask rates in."""
    rate_limit: Annotated[fields.Rate, Field(examples=["600/minute"])] = Quota(600, 60)
    """Requests of all visitors together, over all replicas."""
    rate_limit_per_ip: Annotated[fields.Rate, Field(examples=["60/minute"])] = Quota(60, 60)
    """Requests of one address; IPv6 counts by /64."""
    max_streams: Annotated[fields.Number, Field(ge=1, le=100_000, examples=[200])] = 200
    """Open event streams, over all replicas."""

    @model_validator(mode="after")
    def _quotes_can_be_checked(self) -> Self:
        if Scope.CHECKOUT_SESSIONS_WRITE in self.scopes and not self.quote_secret:
            raise refusal(f"required with the scope {Scope.CHECKOUT_SESSIONS_WRITE}", at=("quote_secret",))
        return self


SECRET_KIND, PUBLISHABLE_KIND = "(secret key)", "(publishable key)"
"""The tags of the two kinds of client; not texts that could be keys of a mapping."""


def _kind(value: object) -> str:
    """Tell which kind of client is meant, also from one that is wrong, so that its faults are named rightly."""
    if not isinstance(value, dict):
        return PUBLISHABLE_KIND if isinstance(value, PublishableKeyClient) else SECRET_KIND
    if "publishable_key" in value:
        return PUBLISHABLE_KIND
    of_a_browser = value.keys() & (PublishableKeyClient.model_fields.keys() - SecretKeyClient.model_fields.keys())
    return PUBLISHABLE_KIND if of_a_browser and "key_sha256" not in value else SECRET_KIND


Client = SecretKeyClient | PublishableKeyClient


class Subscriber(_Section):
    """A service that payment events are sent to."""

    id: Annotated[fields.Id, Field(examples=["orders"])]
    """The subscriber's name in logs and metrics; unique among subscribers."""
    url: Annotated[fields.SubscriberUrl, Field(examples=["https://orders.internal/hooks/quantapay"])]
    """Where events are sent; https, plain http only to loopback and private hosts, nothing to link-local ones."""
    secret: Annotated[tuple[fields.WebhookSecret, ...], fields.OneOrTwo(), Field(examples=["${ORDERS_HOOK_SECRET}"])]
    """Signs the events: `whsec_` and the base64 of 24 to 64 random bytes; two while it is rotated."""
    events: Annotated[
        tuple[Literal[EventName, "*"], ...],
        Field(min_length=1, examples=["payment.completed"]),
        AfterValidator(fields.distinct),
    ] = ("*",)
    """Which events to send; `"*"` is all."""

    def wants(self, event: str) -> bool:
        """Tell whether an event of this name goes to this subscriber."""
        return "*" in self.events or event in self.events


class Webhooks(_Section):
    """How QuantaPay's webhooks are taken."""

    confirm: Annotated[Literal["required", "when-available", "off"], Field(examples=["when-available"])] = (
        "when-available"
    )
    """Whether a payment is read back from QuantaPay before it counts."""
    allow_from: Annotated[tuple[fields.Network, ...], Field(examples=["192.0.2.0/24"])] = ()
    """Networks that webhooks may come from; none listed means all."""


class Payments(_Section):
    """How payments are judged."""

    amount_tolerance_percent: Annotated[
        Decimal, Field(ge=0, le=100, examples=[0.5]), BeforeValidator(fields.decimal)
    ] = Decimal(0)
    """How much less than the price may be paid and still count as paid."""


class Cache(_Section):
    """How many seconds an answer of QuantaPay counts as fresh, by kind; 0: never cached."""

    balances: Annotated[fields.Seconds, Field(examples=[30])] = 30
    """`GET /balances`."""
    exchange_rates: Annotated[fields.Seconds, Field(examples=[60])] = 60
    """`GET /exchange-rates/{cryptocurrency}` and `GET /fiat-values/{cryptocurrency}`."""
    credit_balance: Annotated[fields.Seconds, Field(examples=[60])] = 60
    """`GET /credit-balance`."""
    cryptocurrencies: Annotated[fields.Seconds, Field(examples=[600])] = 600
    """`GET /cryptocurrencies`."""


class Functions(_Section):
    """QuantaPay functions: which may be called by name, and which an account knows by another name."""

    allow: Annotated[
        tuple[fields.AllowedFunction, ...], AfterValidator(fields.distinct), Field(examples=["get-network-fee"])
    ] = ()
    """The functions of `POST /functions/{function}`; never `create-checkout-session`."""
    rename: Annotated[
        dict[PageFunction, fields.FunctionName], Field(examples=[{"get-transactions": "list-transactions"}])
    ] = {}
    """The gateway's name of a function to QuantaPay's, where an account differs."""

    def upstream(self, name: str) -> str:
        """Return what QuantaPay calls a function."""
        return next((renamed for known, renamed in self.rename.items() if known == name), name)

    @model_validator(mode="after")
    def _create_stays_out_of_reach(self) -> Self:
        """No other name may lead to the function that makes checkout sessions."""
        creators = {CREATE_FUNCTION, self.upstream(CREATE_FUNCTION)}
        for index, name in enumerate(self.allow):
            if name in creators:
                raise refusal(
                    f"this is {CREATE_FUNCTION} by another name, which can never be allowed", at=("allow", index)
                )
        for name, renamed in self.rename.items():
            if name != CREATE_FUNCTION and renamed in creators:
                raise refusal(f"another function cannot be {CREATE_FUNCTION}", at=("rename", name))
        return self


class Config(_Section):
    """The whole file; without one, or with an empty one, all of its defaults."""

    clients: tuple[
        Annotated[
            Annotated[SecretKeyClient, Tag(SECRET_KIND)] | Annotated[PublishableKeyClient, Tag(PUBLISHABLE_KIND)],
            Discriminator(_kind),
        ],
        ...,
    ] = ()
    """Who may call the gateway."""
    subscribers: tuple[Subscriber, ...] = ()
    """Where payment events go."""
    webhooks: Webhooks = Webhooks()
    """How QuantaPay's webhooks are taken."""
    payments: Payments = Payments()
    """How payments are judged."""
    cache: Cache = Cache()
    """How long answers count as fresh."""
    functions: Functions = Functions()
    """QuantaPay functions by name."""
