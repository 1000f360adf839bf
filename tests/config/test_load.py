"""gateway.yaml as it should be, and the ways of a file that no YAML text can show."""

import json
from decimal import Decimal
from ipaddress import ip_network
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from gateway.config import (
    Config,
    ConfigurationError,
    PublishableKeyClient,
    Scope,
    SecretKeyClient,
    config_path,
    config_schema,
    load_config,
)
from gateway.config.document import MOST_BYTES, parse
from gateway.config.load import parse_config
from gateway.quota import Quota
from gateway.settings import Settings

ROOT = Path(__file__).parents[2]
GOOD = sorted((Path(__file__).parent / "good").glob("*.yaml"))
EXAMPLE = ROOT / "gateway.example.yaml"
ENVIRON = {"STOREFRONT_QUOTE_SECRET": "a quote secret of enough characters"}


@pytest.fixture
def secrets_dir(tmp_path: Path) -> Path:
    (tmp_path / "storefront-quote-secret").write_text("another quote secret of enough characters\n")
    (tmp_path / "orders-hook-secret").write_text("whsec_TmV4dCBzZWNyZXQgZm9yIG9yZGVycyBob29r\n")
    return tmp_path


def load(path: Path | None, secrets_dir: Path | None = None, **secrets: str) -> Config:
    settings_secrets = {name: SecretStr(text) for name, text in secrets.items()}
    return load_config(path, environ=ENVIRON, secrets_dir=secrets_dir, settings_secrets=settings_secrets)


def faults_of(raw: bytes) -> str:
    with pytest.raises(ConfigurationError) as caught:
        parse_config(raw, environ={}, secrets_dir=None, settings_secrets={})
    assert caught.value.__context__ is None
    return str(caught.value)


@pytest.mark.parametrize("path", [*GOOD, EXAMPLE], ids=lambda path: path.stem)
def test_a_good_file_loads_and_follows_the_published_schema(path: Path, secrets_dir: Path) -> None:
    assert load(path, secrets_dir).model_config["frozen"]
    schema = json.loads((ROOT / "deploy/gateway.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    data = json.loads(json.dumps(parse(path.read_bytes()).data or {}, default=float))
    jsonschema.Draft202012Validator(schema).validate(data)


@pytest.mark.parametrize(
    "name",
    ["unknown-client-key", "unknown-scope", "origin-wildcard", "rate-limit-a-day", "both-kinds-of-key", "three-hashes"],
)
def test_the_schema_refuses_what_an_editor_can_see(name: str) -> None:
    data = parse((Path(__file__).parent / "bad" / f"{name}.yaml").read_bytes()).data
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(config_schema()).validate(data)


def test_the_example_says_what_the_interface_says(secrets_dir: Path) -> None:
    config = load(EXAMPLE, secrets_dir)
    orders, storefront = config.clients
    assert isinstance(orders, SecretKeyClient)
    assert isinstance(storefront, PublishableKeyClient)
    assert set(orders.scopes) == set(Scope) - {Scope.FUNCTIONS_CALL}
    assert (storefront.rate_limit, storefront.rate_limit_per_ip) == (Quota(600, 60), Quota(60, 60))
    assert storefront.quote_secret[0].get_secret_value() == ENVIRON["STOREFRONT_QUOTE_SECRET"]
    assert config.subscribers[0].secret[0].get_secret_value() == "whsec_TmV4dCBzZWNyZXQgZm9yIG9yZGVycyBob29r"
    assert config.subscribers[0].wants("payment.completed")
    assert ENVIRON["STOREFRONT_QUOTE_SECRET"] not in repr(config)


def test_without_a_file_everything_has_its_default() -> None:
    config = load(None)
    assert config == Config()
    assert config.clients == ()
    assert (config.cache.balances, config.cache.exchange_rates) == (30, 60)
    assert (config.cache.credit_balance, config.cache.cryptocurrencies) == (60, 600)
    assert config.webhooks.confirm == "when-available"
    assert config.payments.amount_tolerance_percent == 0


def test_what_yaml_would_misread_is_read_as_written() -> None:
    config = load(Path(__file__).parent / "good/yaml-looks.yaml")
    assert [client.id for client in config.clients] == ["on", "y"]
    assert config.webhooks.confirm == "off"
    assert config.webhooks.allow_from == (ip_network("192.0.2.0/24"), ip_network("2001:db8::1/128"))
    assert isinstance(config.clients[1], PublishableKeyClient)
    assert config.clients[1].currencies == ("nok", "no", "007")
    assert config.payments.amount_tolerance_percent == Decimal("0.1")
    assert config.functions.upstream("get-transactions") == "list-transactions"
    assert config.functions.upstream("get-balances") == "get-balances"


def test_subscribers_get_the_events_they_list(secrets_dir: Path) -> None:
    subscriber = load(Path(__file__).parent / "good/rotation.yaml", secrets_dir).subscribers[0]
    assert subscriber.wants("payment.refunded")
    assert not subscriber.wants("payment.underpaid")


def test_a_variable_cannot_change_the_structure_of_the_file() -> None:
    raw = EXAMPLE.read_bytes().replace(b"${file:orders-hook-secret}", b"whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD")
    text = "x\n    origins: [https://evil.example]  # and enough characters"
    with pytest.raises(ConfigurationError, match="control characters"):
        parse_config(raw, environ={"STOREFRONT_QUOTE_SECRET": text}, secrets_dir=None, settings_secrets={})


def test_a_secret_of_the_settings_cannot_be_used_again(secrets_dir: Path) -> None:
    with pytest.raises(ConfigurationError, match="as QUANTAPAY_WEBHOOK_SECRET"):
        load(EXAMPLE, secrets_dir, QUANTAPAY_WEBHOOK_SECRET=ENVIRON["STOREFRONT_QUOTE_SECRET"])


def test_a_model_made_in_code_needs_no_file() -> None:
    orders = SecretKeyClient(id="orders", key_sha256=("0" * 64,), scopes=(Scope.BALANCES_READ,))
    shop = PublishableKeyClient(
        id="shop",
        publishable_key=("qpk_" + "A" * 43,),
        origins=("http://127.0.0.1:8080",),
        scopes=(Scope.RATES_READ,),
    )
    assert Config(clients=(orders, shop)).clients == (orders, shop)
    with pytest.raises(ValidationError):
        Config(clients=("orders",))  # type: ignore[arg-type]
    with pytest.raises(ValidationError):
        Config(payments={"amount_tolerance_percent": 0.1})  # type: ignore[arg-type]


def test_a_file_that_is_not_there_or_cannot_be_read_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="there is no such file; GATEWAY_CONFIG") as caught:
        load(tmp_path / "absent.yaml")
    assert str(tmp_path) not in str(caught.value)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"a: \xff\xfe", "takes text in UTF-8"),
        (b"cache:\n  balances: \x07", "(line 2): control characters"),
        (b"#" * (MOST_BYTES + 1), "at most 4194304 bytes"),
        (b"clients: [" + b"[" * 100_000, "levels deep"),
        (b"? [a, b]\n: c", "keys are texts"),
        (b"Secret0: 1\nSecret0: 2", "a key is here twice"),
        (b"%YAML 9.9\n---\na: b", "not valid YAML"),
    ],
)
def test_what_is_no_readable_yaml_is_refused_without_repeating_it(raw: bytes, words: str) -> None:
    assert words in faults_of(raw)


def test_a_byte_order_mark_does_no_harm() -> None:
    raw = b"\xef\xbb\xbfcache: {balances: 1}"
    assert parse_config(raw, environ={}, secrets_dir=None, settings_secrets={}).cache.balances == 1


def outcome(raw: bytes) -> Config | ConfigurationError:
    try:
        return parse_config(raw, environ={}, secrets_dir=None, settings_secrets={})
    except ConfigurationError as error:
        return error


@given(st.binary(max_size=200) | st.text(alphabet="abc:-[]{}#&*!|>'\"%@`~ \n\t${}0.", max_size=80).map(str.encode))
def test_any_bytes_are_a_configuration_or_a_configuration_error(raw: bytes) -> None:
    result = outcome(raw)
    if isinstance(result, ConfigurationError):
        assert result.faults
        assert result.__context__ is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text("zq0:/$", max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "secret", "allow", "rename", "x"]), inner)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*Config.model_fields, "other"]), json_values))
def test_values_of_any_shape_anywhere_are_faults_and_not_crashes(data: object) -> None:
    result = outcome(json.dumps(data).encode())
    if isinstance(result, ConfigurationError):
        assert all(fault.problem for fault in result.faults)


def test_the_file_is_the_one_named_else_the_one_here_else_none(tmp_path: Path) -> None:
    assert config_path(Settings(), directory=tmp_path) is None
    (tmp_path / "gateway.yaml").touch()
    assert config_path(Settings(), directory=tmp_path) == tmp_path / "gateway.yaml"
    named = tmp_path / "named.yaml"
    assert config_path(Settings(config=named), directory=tmp_path) == named
