"""`quantapay-gateway quote`: one line that a browser could send, from gateway.yaml and its secrets alone."""

import json
import os
import subprocess
import sys
import time
import unicodedata

import pytest
import yaml
from pydantic import SecretStr
from typer.testing import CliRunner

from gateway.access.quotes import Quote, sign, verify
from gateway.cli.program import app
from gateway.config.keys import sha256_hex

SECRET, NEWER = "CANARY-quote-secret-of-the-storefront", "CANARY-quote-secret-that-comes-after-it"
KEY = "qpk_" + "storefront".ljust(43, "0")
ORDER = {"--client": "storefront", "--price": "49.99", "--currency": "usd", "--order-id": "ORD-1"}


def front_end(name: str, **more: object) -> dict[str, object]:
    key = "qpk_" + name.ljust(43, "0")
    return {
        "id": name,
        "publishable_key": key,
        "origins": [f"https://{name}.example"],
        "scopes": ["rates:read"],
        **more,
    }


CONFIG = {
    "clients": [
        front_end(
            "storefront",
            quote_secret="${STOREFRONT_QUOTE_SECRET}",
            scopes=["checkout-sessions:write"],
        ),
        front_end("rates-only"),
        {"id": "orders", "key_sha256": sha256_hex("qsk_" + "a" * 43), "scopes": ["balances:read"]},
    ]
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to work in, with the configuration beside it and the secret as the only variable of ours."""
    for name in os.environ:
        if name.startswith(("GATEWAY_", "QUANTAPAY_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("STOREFRONT_QUOTE_SECRET", SECRET)
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    write(tmp_path / "shop.yaml", CONFIG)
    monkeypatch.setenv("GATEWAY_CONFIG", str(tmp_path / "shop.yaml"))
    return folder


def write(path, config):
    path.write_text(yaml.safe_dump(config), encoding="utf-8")


def run(**changed: str | None):
    """Run the command for the order, with options replaced or, by None, left out."""
    options = ORDER | {f"--{name.replace('_', '-')}": value for name, value in changed.items()}
    arguments = [text for name, value in options.items() if value is not None for text in (name, value)]
    done = CliRunner().invoke(app, ["quote", *arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit)
    assert "CANARY" not in done.output
    return done


def refused(done) -> str:
    """Return what was said on the way out with 2; nothing went to stdout, where curl would have taken it."""
    assert (done.exit_code, done.stdout) == (2, "")
    return " ".join(done.stderr.replace("│", " ").split())


def assert_good(body: dict, secret: str = SECRET) -> None:
    quote = Quote("storefront", body["price"], body["currency"], body["order_id"], body["timestamp"])
    verify(quote, body["signature"], [SecretStr(secret)], now=time.time())


def test_the_order_is_signed_and_printed_on_one_line(here):
    done = run()
    assert done.exit_code == 0
    [line] = done.stdout.splitlines()
    body = json.loads(line)
    assert list(body) == ["price", "currency", "order_id", "timestamp", "signature"]
    assert (body["price"], body["currency"], body["order_id"]) == ("49.99", "usd", "ORD-1")
    assert_good(body)


def test_hints_go_to_stderr_and_say_how_to_send_it(here):
    hints = run().stderr
    for part in ("5 minutes", "/checkout-sessions", f"Bearer {KEY}", "Origin: https://storefront.example"):
        assert part in hints


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_every_text_is_signed_and_sent_as_it_was_given(here, form):
    order_id = unicodedata.normalize(form, 'Café "№ 7" – 🧾 \\ $x')
    done = run(order_id=order_id, currency="EUR", price="049.90")
    body = json.loads(done.stdout)
    assert (body["price"], body["currency"], body["order_id"]) == ("049.90", "EUR", order_id)
    assert_good(body)
    assert done.stdout.isascii()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("price", "0"), ("price", "-1"), ("price", ""), ("price", "49,99"), ("price", "4.999"), ("price", "1e3"),
        ("price", "$5"), ("price", "１.00"), ("price", "1" * 13), ("currency", "u"), ("currency", "us d"),
        ("currency", ""), ("currency", "€€€"), ("order_id", ""), ("order_id", "a|b"), ("order_id", "a\nb"),
        ("order_id", "a" * 256),
    ],
)  # fmt: skip
def test_an_order_that_the_gateway_would_not_take_is_refused_by_option(here, option, value):
    assert f"--{option.replace('_', '-')}" in refused(run(**{option: value}))


def test_decimals_are_those_of_the_currency(here):
    assert run(price="500", currency="jpy").exit_code == 0
    assert "decimals" in refused(run(price="500.5", currency="jpy"))


@pytest.mark.parametrize("option", ["client", "price", "currency", "order_id"])
def test_every_option_is_required(here, option):
    assert f"--{option.replace('_', '-')}" in refused(run(**{option: None}))


@pytest.mark.parametrize(
    ("client", "hint"),
    [
        ("shop", "those with a publishable key are: storefront, rates-only"),
        ("orders", "needs no quote"),
        ("rates-only", "`quote_secret`"),
        ("", "no such client"),
    ],
)
def test_a_client_that_can_have_no_quotes_is_told_why(here, client, hint):
    said = refused(run(client=client))
    assert "--client" in said
    assert hint in said


def test_during_a_rotation_the_first_secret_signs(here):
    config = {"clients": [{**CONFIG["clients"][0], "quote_secret": [NEWER, SECRET]}]}
    write(here / "gateway.yaml", config)
    assert_good(json.loads(run(config="gateway.yaml").stdout), NEWER)


def test_the_file_is_the_one_of_the_option_then_the_variable_then_the_one_here(here, monkeypatch):
    other = {"clients": [{**CONFIG["clients"][0], "quote_secret": NEWER}]}
    write(here / "other.yaml", other)
    assert_good(json.loads(run(config="other.yaml").stdout), NEWER)
    assert_good(json.loads(run().stdout), SECRET)
    monkeypatch.delenv("GATEWAY_CONFIG")
    assert "--config" in refused(run())
    write(here / "gateway.yaml", other)
    assert_good(json.loads(run().stdout), NEWER)


def test_the_secret_may_stand_in_an_env_file(here, monkeypatch):
    monkeypatch.delenv("STOREFRONT_QUOTE_SECRET")
    assert "quote_secret" in refused(run())
    (here / ".env").write_text(f"STOREFRONT_QUOTE_SECRET={SECRET}\n")
    assert_good(json.loads(run().stdout))


def test_faults_of_the_configuration_are_named(here, monkeypatch):
    assert "absent.yaml" in refused(run(config="absent.yaml"))
    monkeypatch.setenv("GATEWAY_CONFIG", "absent.yaml")
    assert "GATEWAY_CONFIG" in refused(run())
    write(here / "gateway.yaml", {"clients": [front_end("storefront", quote_secret="CANARY-short")]})
    assert "clients[0].quote_secret" in refused(run(config="gateway.yaml"))
    monkeypatch.setenv("GATEWAY_PORT", "CANARY")
    assert "GATEWAY_PORT" in refused(run(config="gateway.yaml"))


def test_the_help_has_examples(here):
    done = CliRunner().invoke(app, ["quote", "--help"])
    assert done.exit_code == 0
    assert "quantapay-gateway quote --client storefront" in done.stdout


def test_the_program_prints_what_curl_can_take(here):
    """From outside, as `curl -d "$(quantapay-gateway quote …)"` sees it, in a terminal that knows only ASCII."""
    arguments = [text for pair in (ORDER | {"--order-id": "Bestellung № 7"}).items() for text in pair]
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "quote", *arguments],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    body = json.loads(done.stdout)
    expected = Quote("storefront", "49.99", "usd", "Bestellung № 7", body["timestamp"])
    assert body["signature"] == sign(expected, SecretStr(SECRET))
