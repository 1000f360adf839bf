"""Queries as an attacker, or QuantaPay with an odd webhook address, would send them."""

import time
from itertools import islice, product
from string import ascii_letters, digits

import httpx
import pytest

from gateway.errors import ValidationFailed
from gateway.http.parameters import refuse_any
from gateway.routes.checkout_sessions.watch import router
from tests.plugins.gateway import WEBHOOK_SECRET
from tests.routes.test_webhooks import APRIL, kept


def names(count: int) -> list[str]:
    return ["".join(letters) for letters in islice(product(ascii_letters + digits, repeat=3), count)]


def seconds(query: str, read) -> float:
    started = time.process_time()
    with pytest.raises(ValidationFailed):
        read(query.encode())
    return time.process_time() - started


@pytest.mark.parametrize("query", ["&".join([*names(8_000), "~", "~"]), "&".join(names(8_000))], ids=["twice", "many"])
@pytest.mark.parametrize(
    "read",
    [refuse_any, lambda query: router.routes[0]._parameters.read({"id": "cs_x"}, query)],
    ids=["no parameters", "a model"],
)
def test_a_query_of_32_kib_costs_next_to_nothing(query, read):
    # The quickest of some: a search for garbage in all that the tests have made takes longer.
    assert min(seconds(query, read) for _ in range(3)) < 0.05


def test_who_has_no_key_holds_up_nobody_with_a_long_query(gateway):
    query = "&".join([*names(8_000), "~", "~"])
    started = time.monotonic()
    answer = httpx.post(f"{gateway.url}/webhooks/quantapay?{query}", json={}, timeout=60)
    assert answer.status_code < 500
    assert time.monotonic() - started < 0.5


@pytest.mark.parametrize("query", ["?shop=1", "?a=1&a=2", "?"])
def test_a_webhook_is_taken_whatever_query_its_address_has(gateway, valkey, query):
    body = {"key": WEBHOOK_SECRET, "transaction": APRIL}
    answer = httpx.post(f"{gateway.url}/webhooks/quantapay{query}", json=body)
    assert answer.status_code == 200, answer.text
    assert [row["id"] for row in kept(valkey)] == ["42"]
