"""What a route reads from its path and query: as FastAPI would, and nothing that it does not name."""

from typing import Annotated
from urllib.parse import parse_qsl, urlencode

import pytest
from fastapi import Path, Query
from fastapi.dependencies.utils import get_dependant
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from gateway.errors import ValidationFailed
from gateway.http import parameters
from gateway.http.parameters import Parameters
from gateway.http.schemas import CoinCode, CurrencyCode


class Pair(BaseModel):
    model_config = ConfigDict(extra="forbid")

    currency: CurrencyCode
    page: int = 0


async def route(
    call: object, coin: Annotated[CoinCode, Path(alias="cryptocurrency")], query: Annotated[Pair, Query()]
) -> None: ...


async def bare(call: object) -> None: ...


def parameters_of(function) -> Parameters:
    dependant = get_dependant(path="/x/{cryptocurrency}", call=function)
    dependant.query_params = [field for field in dependant.query_params if field.name != "call"]
    return Parameters(dependant)


def refused(query: bytes, path: str = "btc") -> list[tuple[str | None, str]]:
    with pytest.raises(ValidationFailed) as caught:
        parameters_of(route).read({"cryptocurrency": path}, query)
    return [(fault.parameter, fault.detail) for fault in caught.value.faults]


def test_what_is_named_is_read_and_normalised() -> None:
    arguments = parameters_of(route).read({"cryptocurrency": "BTC"}, b"currency=USD&page=3")
    assert arguments == {"coin": "btc", "query": Pair(currency="usd", page=3)}


def test_all_faults_are_told_at_once() -> None:
    assert refused(b"currency=$&page=x", path="no spaces") == [
        ("cryptocurrency", "Expected a cryptocurrency code such as btc."),
        ("currency", "Expected a currency code such as usd."),
        ("page", "Input should be a valid integer, unable to parse string as an integer."),
    ]


@pytest.mark.parametrize("query", [b"currency=usd&other=1", b"currency=usd&%6fther=1", b"currency=usd&other"])
def test_a_name_that_is_not_declared_is_refused(query: bytes) -> None:
    assert refused(query) == [("other", "This name is not known here.")]


@pytest.mark.parametrize("query", [b"currency=usd&currency=usd", b"currency=usd&%63urrency=eur"])
def test_a_name_that_is_there_twice_is_refused(query: bytes) -> None:
    assert refused(query) == [("currency", "This may be given only once.")]


def test_a_route_without_a_query_refuses_any() -> None:
    assert parameters_of(bare).read({}, b"") == {}
    with pytest.raises(ValidationFailed):
        parameters_of(bare).read({}, b"a=1")


def test_a_route_that_cannot_be_read_is_refused_when_it_is_made() -> None:
    async def several(call: object, one: str, two: str) -> None: ...

    with pytest.raises(TypeError):
        parameters_of(several)


@given(st.lists(st.tuples(st.text(max_size=5), st.text(max_size=5)), max_size=5))
def test_an_encoded_query_is_read_as_the_standard_library_does(pairs: list[tuple[str, str]]) -> None:
    query = urlencode(pairs, errors="surrogatepass").encode()
    assert parameters._pairs(query) == parse_qsl(query.decode("latin-1"), keep_blank_values=True)


@given(st.text(alphabet="ab=&%+;é\x00 41", max_size=20))
def test_any_query_is_read_as_the_standard_library_does(text: str) -> None:
    assert parameters._pairs(text.encode("latin-1")) == parse_qsl(text, keep_blank_values=True)
