"""From a session over the pay page to a transaction, and the ways to ask for it."""

import html
import re
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest

ROW_FIELDS = [
    "id", "biz_id", "title", "description", "from", "to", "hash", "amount", "amount_fiat", "cryptocurrency",
    "currency", "external_reference", "creation_time", "status", "webhook", "vat", "billing", "checkout_id",
    "type",
]  # fmt: skip
"""Contract §6.4, in the order of the form of 8 April 2026."""


async def open_session(client, **changes):
    order = {"price": "49.99", "currency": "USD", "order_id": "ORD-1", **changes}
    return (await client.call("create-checkout-session", **order))["response"]["payment_url"]


def edited(url, **changes):
    address = urlsplit(url)
    query = {**dict(parse_qsl(address.query, keep_blank_values=True)), **changes}
    return address._replace(query=urlencode(query)).geturl()


async def pay(client, url, action="pay", **form):
    return await client.http.post(url, data={"action": action, **form})


async def transaction(client, number="1"):
    return (await client.call("get-transaction", transaction_id=number))["response"]


async def transactions(client, **filters):
    fields = {"function": "get-transactions", "api-key": "sim-key", **filters}
    return (await client.form(fields)).json()["response"]


async def test_the_page_shows_the_price_and_has_no_scripts(client):
    response = await client.http.get(await open_session(client))
    assert response.status_code == 200
    assert "49.99 USD" in response.text
    assert "ORD-1" in response.text
    assert re.findall(r'name="action" value="(\w+)"', response.text) == ["pay", "underpay", "leave"]
    assert "<script" not in response.text
    policy = response.headers["content-security-policy"]
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy


async def test_what_the_address_says_is_escaped_on_the_page(client):
    url = edited(await open_session(client), external_reference="<img src=x>", currency='"><b>')
    page = (await client.http.get(url)).text
    assert "<img" not in page
    assert "<b>" not in page.lower()


async def test_a_session_alone_is_no_transaction(client):
    await open_session(client)
    assert await transactions(client) == []
    assert await transaction(client) is False


async def test_a_payment_is_pending_first_and_completed_after_its_time(client, clock):
    paid = await pay(client, await open_session(client))
    assert "transaction 1" in paid.text
    pending = await transaction(client)
    assert list(pending) == ROW_FIELDS
    assert pending == {
        **dict.fromkeys(("title", "description", "from", "hash", "billing"), ""),
        "id": "1",
        "biz_id": pending["biz_id"],
        "to": "simulated-btc-merchant",
        "amount": "0.00077085",
        "amount_fiat": "49.99000000",
        "cryptocurrency": "btc",
        "currency": "usd",
        "external_reference": "ORD-1",
        "creation_time": "2023-11-14 22:13:20",
        "status": "P",
        "webhook": "0",
        "vat": "0",
        "checkout_id": None,
        "type": "2",
    }
    assert re.fullmatch(r"QP-20231114-[0-9A-F]{5}", pending["biz_id"])
    clock.advance(2.9)
    assert await transaction(client) == pending
    clock.advance(0.1)
    completed = await transaction(client)
    assert completed["status"] == "C"
    assert completed["from"]
    assert re.fullmatch(r"0x[0-9a-f]{64}", completed["hash"])
    assert {name for name in completed if completed[name] != pending[name]} == {
        "status",
        "from",
        "hash",
        "webhook",
    }


async def test_a_short_payment_ends_underpaid_and_says_so(client, clock):
    await pay(client, await open_session(client), "underpay", cryptocurrency="ETH")
    clock.advance(3)
    row = await transaction(client)
    assert row["status"] == "X"
    assert row["cryptocurrency"] == "eth"
    assert "received" in row["description"]


async def test_leaving_pays_nothing(client):
    left = await pay(client, await open_session(client), "leave")
    assert left.status_code == 200
    assert await transactions(client) == []


@pytest.mark.parametrize("action", ["leave", "pay"])
async def test_there_is_a_way_back_to_the_same_checkout(client, action):
    url = edited(await open_session(client), price="7.50", external_reference='"><b>')
    page = (await pay(client, url, action)).text
    assert "<b>" not in page
    [link] = re.findall(r'href="(\?[^"]+)"', page)
    checkout = await client.http.get(f"/pay.php{html.unescape(link)}")
    assert "7.50 USD" in checkout.text
    assert 'value="pay"' in checkout.text


async def test_the_page_believes_its_address(client):
    await pay(client, edited(await open_session(client), price="0.01", external_reference="ORD-2"))
    row = await transaction(client)
    assert (row["amount_fiat"], row["external_reference"]) == ("0.01000000", "ORD-2")


async def test_one_session_can_be_paid_twice(client):
    url = await open_session(client)
    await pay(client, url)
    await pay(client, url)
    assert [row["id"] for row in await transactions(client)] == ["2", "1"]


@pytest.mark.parametrize("change", [{"checkout_id": "cs-cs_unknown"}, {"price": "-1"}, {"price": "0"}, {"price": ""}])
async def test_an_address_that_makes_no_sense_leads_to_no_checkout(client, change):
    url = edited(await open_session(client), **change)
    assert (await client.http.get(url)).status_code == 404
    assert (await pay(client, url)).status_code == 404
    assert await transactions(client) == []


@pytest.mark.parametrize("form", [{"action": "steal"}, {"action": "pay", "cryptocurrency": "nope"}, {}])
async def test_an_impossible_action_does_nothing(client, form):
    response = await client.http.post(await open_session(client), data=form)
    assert response.status_code == 400
    assert await transactions(client) == []


async def test_sessions_can_pay_themselves(connect, clock):
    client = connect(pays_itself_after=10.0, completes_after=5.0)
    await open_session(client, order_id="first")
    clock.advance(1)
    await open_session(client, order_id="second")
    assert await transactions(client) == []
    clock.advance(9)
    assert [(row["external_reference"], row["status"]) for row in await transactions(client)] == [("first", "P")]
    clock.advance(5)
    rows = [(row["external_reference"], row["status"]) for row in await transactions(client)]
    assert rows == [("second", "P"), ("first", "C")]


async def test_an_unknown_row_is_false_and_an_id_that_is_no_number_a_text(client):
    assert await transaction(client, "99") is False
    assert "not a number" in await transaction(client, "QP-1")


async def insert(client, **fields):
    response = await client.http.post("/simulator/transactions", json=fields)
    assert response.status_code == 201
    return response.json()


async def test_a_row_can_be_put_in_by_hand_with_any_fields_but_its_id(client):
    row = await insert(client, status="Z", amount_fiat=12.5, title=None, extra="new", id="77")
    assert row == await transaction(client, "1")
    assert (row["id"], row["status"], row["amount_fiat"], row["title"], row["extra"]) == (
        "1",
        "Z",
        12.5,
        None,
        "new",
    )


async def test_a_row_can_be_refunded_by_hand(client, clock):
    await pay(client, await open_session(client))
    refunded = (await client.http.post("/simulator/transactions/1", json={"status": "R"})).json()
    assert refunded["status"] == "R"
    assert refunded["hash"]
    clock.advance(60)
    assert await transaction(client) == refunded
    back = (await client.http.post("/simulator/transactions/1", json={"status": "P", "id": "9"})).json()
    assert (back["status"], back["id"]) == ("P", "1")


async def test_other_fields_can_change_while_a_payment_is_pending(client, clock):
    await pay(client, await open_session(client))
    await client.http.post("/simulator/transactions/1", json={"title": "Tea"})
    assert (await transaction(client))["status"] == "P"
    clock.advance(3)
    row = await transaction(client)
    assert (row["status"], row["title"]) == ("C", "Tea")


@pytest.mark.parametrize(("number", "body", "status"), [(9, "{}", 404), (1, "[]", 400), (1, "{", 400)])
async def test_a_bad_change_is_refused(client, number, body, status):
    await insert(client)
    response = await client.http.post(f"/simulator/transactions/{number}", content=body)
    assert response.status_code == status
    assert "error" in response.json()
    assert (await client.http.post("/simulator/transactions", content="[]")).status_code == 400


async def test_rows_come_newest_first_a_hundred_a_page(client):
    for number in range(101):
        await insert(client, title=f"row {number}")
    first, second, third, everything = [await transactions(client, pagination=page) for page in ("0", "1", "2", "-1")]
    assert [row["id"] for row in first] == [str(number) for number in range(101, 1, -1)]
    assert [row["id"] for row in second] == ["1"]
    assert third == []
    assert everything == first + second
    assert await transactions(client) == first == await transactions(client, pagination="")


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({"status": "C"}, ["1"]),
        ({"status": "Q"}, []),
        ({"cryptocurrency": "BTC"}, ["2"]),
        ({"search": "TEA"}, ["1"]),
        ({"search": "ord-2"}, ["2"]),
        ({"search": "7.25"}, ["2"]),
        ({"search": "7.25 "}, []),
        ({"search": "nothing"}, []),
        ({"search": "tea", "status": "X"}, []),
        ({"date_range[0]": "2026-04-10 09:00:00"}, ["2", "1"]),
        ({"date_range[0]": "2026-04-10 09:00:01"}, ["2"]),
        ({"date_range[1]": "2026-04-10 09:00:00"}, ["1"]),
        ({"date_range[0]": "2026-04-11", "date_range[1]": "2026-04-11"}, ["2"]),
        ({"date_range[1]": "2026-04-10"}, []),
        ({"date_range": "2026-04-11"}, ["2", "1"]),
    ],
)
async def test_rows_can_be_filtered(client, filters, found):
    await insert(client, status="C", cryptocurrency="eth", title="Green tea", creation_time="2026-04-10 09:00:00")
    await insert(
        client,
        status="X",
        cryptocurrency="btc",
        external_reference="ORD-2",
        amount_fiat="7.25000000",
        creation_time="2026-04-11 00:00:00",
    )
    assert [row["id"] for row in await transactions(client, **filters)] == found


@pytest.mark.parametrize("filters", [{"pagination": "x"}, {"date_range[0]": "2026-04-10T09:00:00Z"}])
async def test_a_filter_that_cannot_be_read_is_a_text_under_success_true(client, filters):
    assert (await transactions(client, **filters)).startswith("QuantaPay error [simulated]: ")
