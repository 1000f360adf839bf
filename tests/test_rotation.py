"""Replacing keys and secrets while requests come in: nobody is turned away meanwhile, and the old ones end."""

import signal

import pytest
import yaml
from pydantic import SecretStr

from gateway.config.keys import sha256_hex
from gateway.sandbox.simulator import SimulatorOptions, running_simulator
from tests.plugins.chaos_load import CONVERSION, CREATE, READS, Load, under_load
from tests.plugins.gateway import MARKER, ORDERS_KEY, WEBHOOK_SECRET, example_config
from tests.plugins.processes import GatewayProcess, until

pytestmark = pytest.mark.usefixtures("unmeasured")

NEW_CLIENT_KEY = "qsk_" + f"{MARKER}successor".ljust(43, "0")
NEW_API_KEY = f"{MARKER}-api-key-of-next-year"
NEW_WEBHOOK_SECRET = f"{MARKER}-webhook-secret-of-next-year"


def accept_client_keys(gateways: list[GatewayProcess], *keys: str) -> None:
    """Let exactly these keys of the client be good, and wait until every gateway knows."""
    reloads = 'gateway_config_reloads_total{result="success"}'
    before = [gateway.total(reloads) for gateway in gateways]
    config = example_config()
    config["clients"][0]["key_sha256"] = [sha256_hex(key) for key in keys]
    new = gateways[0].config.with_suffix(".new")
    new.write_text(yaml.safe_dump(config))
    new.replace(gateways[0].config)  # at once, so that nobody reads half of it
    for gateway in gateways:
        gateway.send(signal.SIGHUP)
    until(lambda: all(map(float.__gt__, (gateway.total(reloads) for gateway in gateways), before)), "all know")


def test_a_client_key_is_replaced_under_load(start_gateway, rate):
    gateways = [start_gateway(), start_gateway()]
    accept_client_keys(gateways, ORDERS_KEY)
    with under_load([gateway.url for gateway in gateways], [*READS, CREATE], rate=rate, key=ORDERS_KEY) as load:
        accept_client_keys(gateways, ORDERS_KEY, NEW_CLIENT_KEY)
        load.key = NEW_CLIENT_KEY
        load.go_on()  # what was sent with the old key is answered by now
        accept_client_keys(gateways, NEW_CLIENT_KEY)
        load.go_on()
    load.assert_nothing_was_lost()
    for gateway in gateways:
        assert gateway.get("/balances", ORDERS_KEY).status_code == 401
        assert MARKER not in str(gateway.lines())


@pytest.fixture
def start(start_gateway, chaos_upstream):
    """Starts a gateway whose QuantaPay can be exchanged for another, which accepts other secrets."""

    def start_one(**environ: str) -> GatewayProcess:
        url = f"{chaos_upstream.url('http')}/api.php"
        return start_gateway(**{"QUANTAPAY_URL": url, "GATEWAY_DRAIN_SECONDS": "1", **environ})

    return start_one


def quantapay_accepting(*, api_key: str, webhook_secret: str):
    """Run a QuantaPay that accepts these and nothing else; yields its URL."""
    return running_simulator(
        SimulatorOptions(api_key=SecretStr(api_key), webhook_secret=SecretStr(webhook_secret), throttle_per_minute=None)
    )


def replace_all(load: Load, gateways: list[GatewayProcess], start, **environ: str) -> None:
    """Put new gateways in the place of the old ones, one after the other, each before the old one stops."""
    for index, old in enumerate(gateways):
        gateways[index] = new = start(**environ)
        load.balancer.add(new.url)
        load.go_on()
        old.send(signal.SIGTERM)
        assert old.process.wait(1 + 5 + 2) == 0
        load.balancer.remove(old.url)
        assert MARKER not in str(old.lines())


def refusals(gateways: list[GatewayProcess], function: str, outcome: str) -> float:
    name = f'quantapay_requests_total{{function="{function}",outcome="{outcome}"}}'
    return sum(gateway.total(name) for gateway in gateways)


def test_the_secrets_of_quantapay_are_replaced_under_load(start, chaos_upstream, rate):
    gateways = [start()]
    with (
        quantapay_accepting(api_key=NEW_API_KEY, webhook_secret=WEBHOOK_SECRET) as with_new_key,
        quantapay_accepting(api_key=NEW_API_KEY, webhook_secret=NEW_WEBHOOK_SECRET) as with_both_new,
        under_load([gateway.url for gateway in gateways], [CONVERSION, CREATE], rate=rate) as load,
    ):
        replace_all(
            load, gateways, start, QUANTAPAY_API_KEY_NEXT=NEW_API_KEY, QUANTAPAY_WEBHOOK_SECRET_NEXT=NEW_WEBHOOK_SECRET
        )
        chaos_upstream.latency(0.05)  # so that some requests are in flight at each of the moments that matter
        load.go_on()
        chaos_upstream.target = with_new_key
        load.go_on()
        assert refusals(gateways, "get-fiat-value", "upstream-credentials-rejected") > 0
        assert refusals(gateways, "create-checkout-session", "upstream-rejected") == 0
        chaos_upstream.target = with_both_new
        load.go_on()
        assert refusals(gateways, "create-checkout-session", "upstream-rejected") > 0
        chaos_upstream.heal()
        replace_all(load, gateways, start, QUANTAPAY_API_KEY=NEW_API_KEY, QUANTAPAY_WEBHOOK_SECRET=NEW_WEBHOOK_SECRET)
        load.go_on()
        assert refusals(gateways, "get-fiat-value", "upstream-credentials-rejected") == 0
    load.assert_nothing_was_lost()
    assert load.answered.keys() == {CONVERSION, CREATE}
