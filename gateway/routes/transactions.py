"""Payments that QuantaPay knows of."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from gateway.errors import NotFound
from gateway.http.authentication import scope
from gateway.http.call import Call
from gateway.http.problems import responses, upstream_responses
from gateway.http.reads import Reads
from gateway.http.routing import DirectRoute
from gateway.http.schemas import CoinCode, Matches, Moment
from gateway.quantapay.functions import GET_TRANSACTION, GET_TRANSACTIONS
from gateway.representations import Transaction

router = APIRouter(
    route_class=DirectRoute,
    tags=["Transactions"],
    dependencies=scope("transactions:read"),
    responses=upstream_responses(),
)

PAGE_SIZE = 100
"""Rows of a full page; QuantaPay gives no total."""

_EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
_STATUS_CODES = {"pending": "P", "completed": "C", "underpaid": "X", "refunded": "R"}


SearchText = Annotated[
    str,
    Matches(r"[^\x00-\x1f\x7f-\x9f]{1,255}", "1 to 255 characters, without control characters"),
    Field(description="Part of a title, code, address, hash or order id."),
]


class TransactionQuery(BaseModel):
    """Which transactions; all filters together."""

    model_config = ConfigDict(extra="forbid")

    status: Literal["pending", "completed", "underpaid", "refunded"] | None = None
    cryptocurrency: CoinCode | None = None
    search: SearchText | None = None
    created_from: Moment | None = None
    created_to: Moment | None = None
    page: Annotated[int, Field(ge=0, le=1_000_000, description="From 0, newest first.")] = 0

    def parameters(self) -> dict[str, str]:
        """Return the filters that were given, as the translation table names them."""
        given = {
            "page": str(self.page),
            "search": self.search,
            "status": _STATUS_CODES.get(self.status or ""),
            "cryptocurrency": self.cryptocurrency,
        }
        if self.created_from or self.created_to:
            # QuantaPay takes both ends or none, and whole seconds: a fraction at the start excludes its second.
            start, end = self.created_from or _EARLIEST, self.created_to or _LATEST
            given["created_from"] = _upstream_time(start + timedelta(seconds=1, microseconds=-1))
            given["created_to"] = _upstream_time(end)
        return {name: value for name, value in given.items() if value is not None}


class Transactions(BaseModel):
    """A page of transactions, newest first."""

    transactions: list[Transaction]
    page: int
    has_more: bool = Field(description="The page was full; ask for the next.")


@router.get("/transactions", summary="List transactions", response_model=Transactions)
async def list_transactions(call: Call, query: Annotated[TransactionQuery, Query()]) -> Response:
    """Return a page of at most 100 payments. Equal requests under way share one call; nothing is kept."""
    reads, parameters = Reads(call), query.parameters()

    async def fetch() -> Transactions:
        rows = await call.services.quantapay.call(GET_TRANSACTIONS, parameters)
        return Transactions(
            transactions=[Transaction.model_validate(row) for row in rows],
            page=query.page,
            has_more=len(rows) >= PAGE_SIZE,
        )

    return reads.answer(await reads.find(GET_TRANSACTIONS, parameters, kind="page", fresh_for=0, fetch=fetch))


@router.get(
    "/transactions/{id}",
    summary="Retrieve a transaction",
    response_model=Transaction,
    responses=responses(NotFound),
)
async def retrieve_transaction(
    call: Call, transaction_id: Annotated[str, Matches("[0-9]{1,20}", "a number"), Path(alias="id", examples=["42"])]
) -> Response:
    """Return one payment; ids are numbers, as anything else would look like an outage."""
    reads, parameters = Reads(call), {"id": transaction_id}

    async def fetch() -> Transaction:
        row = await call.services.quantapay.call(GET_TRANSACTION, parameters)
        if row is None:
            raise NotFound("There is no transaction with this id.")
        return Transaction.model_validate(row)

    return reads.answer(await reads.find(GET_TRANSACTION, parameters, kind="row", fresh_for=0, fetch=fetch))


def _upstream_time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
