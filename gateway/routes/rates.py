"""What a coin is worth, and which coins there are."""

from decimal import Decimal
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from gateway.clock import utc
from gateway.config import PublishableKeyClient
from gateway.errors import InsufficientScope
from gateway.http.authentication import scope
from gateway.http.call import Call
from gateway.http.reads import Read, Reads, conditions, read_responses
from gateway.http.routing import DirectRoute
from gateway.http.schemas import CoinCode, CurrencyCode, Matches, RetrievedAt
from gateway.money import value_in
from gateway.quantapay.functions import GET_BALANCES, GET_EXCHANGE_RATES
from gateway.representations import Amount

router = APIRouter(
    route_class=DirectRoute,
    tags=["Rates"],
    dependencies=[*scope("rates:read"), Depends(conditions)],
    responses=read_responses(),
)


class RateQuery(BaseModel):
    """Which fiat currency the rate is in."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    currency: CurrencyCode


class ConversionQuery(RateQuery):
    """How much of the coin, in which currency."""

    amount: Annotated[
        str,
        Matches(r"[0-9]{1,18}(\.[0-9]{1,18})?", "decimal text such as 0.5"),
        Field(description="Amount of the coin, as decimal text.", examples=["0.5"]),
    ]


class ExchangeRate(BaseModel):
    """The price of one coin."""

    cryptocurrency: str = Field(examples=["btc"])
    currency: str = Field(examples=["usd"])
    rate: Annotated[Amount, Field(description="Fiat per one coin.", examples=["64850.25"])]
    retrieved_at: RetrievedAt


class FiatValue(ExchangeRate):
    """An amount of a coin, in fiat."""

    amount: str = Field(examples=["0.5"])
    fiat_value: Annotated[Amount, Field(description="Amount × rate, rounded half up.", examples=["32425.13"])]


class Cryptocurrencies(BaseModel):
    """The coins that the account accepts."""

    cryptocurrencies: list[str] = Field(examples=[["btc", "eth"]])
    retrieved_at: RetrievedAt


LEAST_KEPT = 60
"""Seconds for which the coins are known that a browser may ask about, even if nothing else is cached: each of its
requests would cost a call otherwise."""


@router.get("/exchange-rates/{cryptocurrency}", summary="Retrieve an exchange rate", response_model=ExchangeRate)
async def retrieve_exchange_rate(
    call: Call, cryptocurrency: CoinCode, query: Annotated[RateQuery, Query()]
) -> Response:
    """Return the price of one coin in a fiat currency.

    A publishable key may ask about the account's coins in the client's `currencies`.
    """
    reads = Reads(call)
    if isinstance(call.caller, PublishableKeyClient):
        await _check_pair(reads, call.caller, cryptocurrency, query.currency)
    return reads.answer(await _find_rate(reads, cryptocurrency, query.currency))


@router.get("/fiat-values/{cryptocurrency}", summary="Convert an amount of a coin to fiat", response_model=FiatValue)
async def retrieve_fiat_value(
    call: Call, cryptocurrency: CoinCode, query: Annotated[ConversionQuery, Query()]
) -> Response:
    """Return amount × rate, rounded half up to the currency's ISO 4217 decimals.

    Computed here from the exchange rate, exactly. A publishable key may ask about the account's coins in the
    client's `currencies`.
    """
    reads = Reads(call)
    if isinstance(call.caller, PublishableKeyClient):
        await _check_pair(reads, call.caller, cryptocurrency, query.currency)
    # QuantaPay's own function rounds to two decimals whatever the currency (contract §6.8).
    read = await _find_rate(reads, cryptocurrency, query.currency)
    found = ExchangeRate.model_validate_json(read.document.body)
    value = value_in(query.currency, amount=Decimal(query.amount), rate=Decimal(found.rate))
    return reads.answer(read.with_body(FiatValue(**found.model_dump(), amount=query.amount, fiat_value=value)))


@router.get("/cryptocurrencies", summary="List cryptocurrencies", response_model=Cryptocurrencies)
async def list_cryptocurrencies(call: Call) -> Response:
    """Return the codes of the account's coins: those of its balances, as QuantaPay lists no others."""
    reads = Reads(call)
    return reads.answer(await _find_coins(reads, fresh_for=call.services.config.cache.cryptocurrencies))


async def _check_pair(reads: Reads, client: PublishableKeyClient, cryptocurrency: str, currency: str) -> None:
    """Keep a browser to the pairs that its shop shows: each other one would cost a call of its own."""
    if currency not in client.currencies:
        raise InsufficientScope("The key may not ask for rates in this currency.")
    read = await _find_coins(reads, fresh_for=max(reads.call.services.config.cache.cryptocurrencies, LEAST_KEPT))
    coins = Cryptocurrencies.model_validate_json(read.document.body)
    if cryptocurrency not in coins.cryptocurrencies:
        raise InsufficientScope("The key may ask for rates of the account's coins only.")


async def _find_coins(reads: Reads, *, fresh_for: float) -> Read:
    services = reads.call.services

    async def fetch() -> Cryptocurrencies:
        found = await services.quantapay.call(GET_BALANCES)
        codes = [row.cryptocurrency for row in found.balances]
        return Cryptocurrencies(cryptocurrencies=codes, retrieved_at=utc(services.clock.time()))

    # An entry of its own: who may see codes may not see amounts.
    return await reads.find(GET_BALANCES, kind="codes", fresh_for=fresh_for, fetch=fetch)


async def _find_rate(reads: Reads, cryptocurrency: str, currency: str) -> Read:
    services = reads.call.services
    parameters = {"cryptocurrency": cryptocurrency, "currency": currency}

    async def fetch() -> ExchangeRate:
        rate = await services.quantapay.call(GET_EXCHANGE_RATES, parameters)
        return ExchangeRate(**parameters, rate=rate, retrieved_at=utc(services.clock.time()))

    return await reads.find(
        GET_EXCHANGE_RATES,
        parameters,
        kind="rate",
        fresh_for=services.config.cache.exchange_rates,
        fetch=fetch,
        remember_refusals=True,
    )
