"""The simulator on real sockets: starting, stopping, and breaking connections."""

import socket
import time
from contextlib import suppress

import httpx
import pytest

from gateway.sandbox.simulator import running_simulator, simulator_server

FIELDS = {"function": "get-balances", "api-key": "sim-key"}
FORM = b"function=get-balances&api-key=sim-key"


@pytest.fixture
def simulator(options, clock):
    with running_simulator(options(throttle_per_minute=None), clock=clock) as base_url:
        yield base_url


def raw_call(base_url):
    """Call with a plain socket and return all that comes until the connection ends."""
    port = httpx.URL(base_url).port
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        head = b"POST /api.php HTTP/1.1\r\nHost: sim\r\nContent-Type: application/x-www-form-urlencoded\r\n"
        connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(FORM) + FORM)
        received = b""
        while part := connection.recv(65536):
            received += part
        return received


def turn_on(base_url, name, **more):
    assert httpx.post(f"{base_url}/simulator/scenario", json={"name": name, **more}).status_code == 200


def test_it_answers_over_a_real_socket_with_a_date_and_without_naming_its_server(simulator):
    response = httpx.post(f"{simulator}/api.php", data=FIELDS)
    assert response.json()["success"] is True
    assert response.headers["content-length"] == str(len(response.content))
    assert "date" in response.headers
    assert "server" not in response.headers


def test_the_pay_page_is_where_the_call_came_to(simulator):
    fields = {**FIELDS, "function": "create-checkout-session", "price": "5", "currency": "usd"}
    url = httpx.post(f"{simulator}/api.php", data=fields).json()["response"]["payment_url"]
    assert url.startswith(f"{simulator}/pay.php?")
    assert httpx.get(url).status_code == 200


def test_it_starts_and_stops_within_a_second_and_frees_its_port(options):
    began = time.monotonic()
    with running_simulator(options()) as base_url:
        httpx.post(f"{base_url}/api.php", data=FIELDS)
        started = time.monotonic()
    assert started - began < 1
    assert time.monotonic() - started < 1
    with pytest.raises(httpx.ConnectError):
        httpx.get(base_url)
    with running_simulator(options(), port=httpx.URL(base_url).port) as again:
        assert again == base_url


def test_it_stops_although_a_client_keeps_waiting(options):
    with httpx.Client(timeout=5) as client, running_simulator(options()) as base_url:
        client.post(f"{base_url}/simulator/scenario", json={"name": "hang"})
        waiting = socket.create_connection(("127.0.0.1", httpx.URL(base_url).port))
        waiting.sendall(b"POST /api.php HTTP/1.1\r\nHost: sim\r\nContent-Length: 0\r\n\r\n")
        client.get(f"{base_url}/simulator/calls")
    with waiting, suppress(ConnectionResetError):
        assert waiting.recv(1) == b""


def test_a_taken_port_is_an_os_error(options, simulator):
    with pytest.raises(OSError, match="in use"), running_simulator(options(), port=httpx.URL(simulator).port):
        pass


def test_two_simulators_share_nothing(options, simulator):
    with running_simulator(options()) as other:
        turn_on(other, "html-error")
        assert httpx.post(f"{other}/api.php", data=FIELDS).status_code == 500
        assert httpx.post(f"{simulator}/api.php", data=FIELDS).status_code == 200


def test_close_ends_the_connection_without_a_byte(simulator):
    turn_on(simulator, "close")
    assert raw_call(simulator) == b""


def test_reset_is_a_real_reset(simulator):
    turn_on(simulator, "reset")
    with pytest.raises(ConnectionResetError):
        raw_call(simulator)


def test_cut_off_sends_half_of_what_it_announces(simulator):
    honest = httpx.post(f"{simulator}/api.php", data=FIELDS).content
    turn_on(simulator, "cut-off")
    head, _, body = raw_call(simulator).partition(b"\r\n\r\n")
    assert f"content-length: {len(honest)}".encode() in head
    assert body == honest[: len(honest) // 2]
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.post(f"{simulator}/api.php", data=FIELDS)


def test_hang_never_answers_and_serves_on_after_the_client_left(simulator):
    turn_on(simulator, "hang", times=1)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{simulator}/api.php", data=FIELDS, timeout=0.2)
    assert httpx.post(f"{simulator}/api.php", data=FIELDS).json()["success"] is True


def test_a_slow_answer_is_given_up_when_the_client_leaves(options):
    with running_simulator(options()) as base_url:
        turn_on(base_url, "slow", seconds=3600)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{base_url}/api.php", data=FIELDS, timeout=0.2)


def test_an_honest_answer_leaves_the_connection_open_for_the_next(simulator):
    with httpx.Client() as client:
        for _ in range(3):
            stream = client.post(f"{simulator}/api.php", data=FIELDS).extensions["network_stream"]
        assert stream.get_extra_info("socket").getpeername()[1] == httpx.URL(simulator).port
        assert len(client._transport._pool.connections) == 1


@pytest.mark.parametrize("scenario", ["close", "reset", "cut-off"])
async def test_without_a_real_socket_a_broken_connection_is_an_exception(client, scenario):
    await client.turn_on(scenario)
    with pytest.raises(ConnectionResetError):
        await client.post("get-balances")


async def test_it_runs_on_the_callers_loop_too(options):
    async with simulator_server(options()) as base_url, httpx.AsyncClient() as http:
        assert (await http.post(f"{base_url}/api.php", data=FIELDS)).json()["success"] is True
