"""What the merchant holds, and the credits that pay QuantaPay's fee."""

from fastapi import APIRouter, Depends, Response
from pydantic import BaseModel, Field

from gateway.clock import utc
from gateway.http.authentication import scope
from gateway.http.call import Call
from gateway.http.reads import Reads, conditions, read_responses
from gateway.http.routing import DirectRoute
from gateway.http.schemas import RetrievedAt
from gateway.quantapay.functions import GET_BALANCES, GET_CREDIT_BALANCE
from gateway.representations import Amount

router = APIRouter(
    route_class=DirectRoute,
    tags=["Balances"],
    dependencies=[*scope("balances:read"), Depends(conditions)],
    responses=read_responses(),
)


class Balance(BaseModel):
    """What the merchant holds of one coin."""

    cryptocurrency: str = Field(examples=["btc"])
    amount: Amount
    fiat_value: Amount


class Balances(BaseModel):
    """Every coin of the account, sorted by code."""

    balances: list[Balance]
    currency: str | None = Field(description="Currency of the fiat values, where QuantaPay says it.", examples=["usd"])
    retrieved_at: RetrievedAt


class CreditBalance(BaseModel):
    """Prepaid credits; may be negative."""

    amount: Amount
    currency: str = Field(examples=["usd"])
    retrieved_at: RetrievedAt


@router.get("/balances", summary="List balances", response_model=Balances)
async def list_balances(call: Call) -> Response:
    """Return the merchant's balance of every coin."""
    services, reads = call.services, Reads(call)

    async def fetch() -> Balances:
        found = await services.quantapay.call(GET_BALANCES)
        rows = [(row.cryptocurrency, row.amount, row.fiat_value) for row in found.balances]
        services.holdings.show_balances(GET_BALANCES.name, rows, currency=found.currency)
        return Balances(
            balances=[
                Balance(cryptocurrency=row.cryptocurrency, amount=row.amount, fiat_value=row.fiat_value)
                for row in found.balances
            ],
            currency=found.currency,
            retrieved_at=utc(services.clock.time()),
        )

    fresh_for = services.config.cache.balances
    return reads.answer(await reads.find(GET_BALANCES, kind="balances", fresh_for=fresh_for, fetch=fetch))


@router.get("/credit-balance", summary="Retrieve the credit balance", response_model=CreditBalance)
async def retrieve_credit_balance(call: Call) -> Response:
    """Return the prepaid credits."""
    services, reads = call.services, Reads(call)

    async def fetch() -> CreditBalance:
        found = await services.quantapay.call(GET_CREDIT_BALANCE)
        services.holdings.show_credit(GET_CREDIT_BALANCE.name, found.amount, currency=found.currency)
        return CreditBalance(amount=found.amount, currency=found.currency, retrieved_at=utc(services.clock.time()))

    fresh_for = services.config.cache.credit_balance
    return reads.answer(await reads.find(GET_CREDIT_BALANCE, kind="credit", fresh_for=fresh_for, fetch=fetch))
