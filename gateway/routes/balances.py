"""What the merchant holds, and the credits that pay QuantaPay's fee."""

from fastapi import APIRouter
from pydantic import BaseModel, Field

from gateway.clock import utc
from gateway.http.dependencies import ServicesDependency, scope, upstream_responses
from gateway.http.schemas import Amount, RetrievedAt
from gateway.quantapay.functions import GET_BALANCES, GET_CREDIT_BALANCE

router = APIRouter(tags=["Balances"], dependencies=scope("balances:read"), responses=upstream_responses())


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


@router.get("/balances", summary="List balances")
async def list_balances(services: ServicesDependency) -> Balances:
    """Return the merchant's balance of every coin."""
    found = await services.quantapay.call(GET_BALANCES)
    return Balances(
        balances=[
            Balance(cryptocurrency=row.cryptocurrency, amount=row.amount, fiat_value=row.fiat_value)
            for row in found.balances
        ],
        currency=found.currency,
        retrieved_at=utc(services.clock.time()),
    )


@router.get("/credit-balance", summary="Retrieve the credit balance")
async def retrieve_credit_balance(services: ServicesDependency) -> CreditBalance:
    """Return the prepaid credits."""
    found = await services.quantapay.call(GET_CREDIT_BALANCE)
    return CreditBalance(amount=found.amount, currency=found.currency, retrieved_at=utc(services.clock.time()))
