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


class FrozenPair(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    currency: CurrencyCode
    page: int = 0


class Pair(BaseModel):
    model_config = ConfigDict(extra="forbid")

    currency: CurrencyCode
    page: int = 0


async def route(
    call: object, coin: Annotated[CoinCode, Path(alias="cryptocurrency")], query: Annotated[Pair, Query()]
) -> None: ...


async def frozen(
    call: object, coin: Annotated[CoinCode, Path(alias="cryptocurrency")], query: Annotated[FrozenPair, Query()]
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


REMEMBERING, FORGETFUL = parameters_of(frozen), parameters_of(route)
QUERIES = st.lists(
    st.sampled_from(
        ["currency=usd", "currency=USD", "%63urrency=usd", "page=1", "page=01", "page=x", "other=1", "", "&"]
    )
).map("&".join)


def outcome(parameters: Parameters, coin: str, query: str) -> object:
    try:
        arguments = parameters.read({"cryptocurrency": coin}, query.encode())
    except ValidationFailed as error:
        return error.faults
    return {**arguments, "query": arguments["query"].model_dump()}


@given(st.lists(st.tuples(st.sampled_from(["btc", "BTC", "b t", "eth"]), QUERIES), max_size=10))
def test_what_is_remembered_is_what_would_be_read(requests: list[tuple[str, str]]) -> None:
    for coin, query in [*requests, *requests]:
        assert outcome(REMEMBERING, coin, query) == outcome(FORGETFUL, coin, query)


def test_a_query_is_only_remembered_if_it_is_short_and_its_model_cannot_change() -> None:
    def is_same(parameters: Parameters, query: bytes) -> bool:
        one, other = (parameters.read({"cryptocurrency": "btc"}, query)["query"] for _ in range(2))
        return one is other

    assert is_same(REMEMBERING, b"currency=usd")
    assert not is_same(REMEMBERING, b"currency=usd" + b"&" * 100)
    assert not is_same(FORGETFUL, b"currency=usd")


def test_only_so_many_queries_are_remembered() -> None:
    remembering = parameters_of(frozen)
    for page in range(2000):
        remembering.read({"cryptocurrency": "btc"}, b"currency=usd&page=%d" % page)
    assert remembering._read_query_once.cache_info().currsize == 1024


def test_a_fault_in_the_path_does_not_hide_that_of_the_query() -> None:
    with pytest.raises(ValidationFailed) as refused:
        REMEMBERING.read({"cryptocurrency": "b t"}, b"currency=usd&unheard=of")
    assert [fault.parameter for fault in refused.value.faults] == ["cryptocurrency", "unheard"]
