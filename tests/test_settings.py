"""Settings: where they come from, what they take, and that no refusal repeats what was given."""

import os
from ipaddress import ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from gateway.quota import Quota
from gateway.settings import ConfigurationError, Settings, load_settings, read_settings, read_variables, variables

COMPLETE = {
    "QUANTAPAY_API_KEY": "canary-api-key",
    "QUANTAPAY_WEBHOOK_SECRET": "canary-webhook-secret",
    "GATEWAY_REDIS_URL": "redis://:canary-password@localhost:6379/0",
}


def load(**environ: str) -> Settings:
    return load_settings(environ={**COMPLETE, **environ}, env_file=None, secrets_dir=None)


def refused(**environ: str) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        load(**environ)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    return caught.value


# Where values come from


def test_a_complete_environment_gives_the_documented_defaults() -> None:
    settings = load()
    assert settings.quantapay_url == "https://cloud.quantapay.app/api.php"
    assert settings.quantapay_payment_hosts == ("cloud.quantapay.app",)
    assert settings.quantapay_budget == Quota(90, 60)
    assert (settings.quantapay_timeout, settings.drain_seconds) == (10, 5)
    assert (settings.host, settings.port) == ("127.0.0.1", 8080)
    assert (settings.ops_host, settings.ops_port) == ("127.0.0.1", 9464)
    assert (settings.workers, settings.replicas) == (1, 1)
    assert settings.docs
    assert (settings.log_level, settings.log_format) == ("info", None)
    assert (settings.config, settings.public_url, settings.trusted_proxies) == (None, None, ())
    assert settings.data_dir.name == "quantapay-gateway"
    assert settings.warnings == ()


def test_variables_go_before_the_env_file_and_that_before_secret_files(tmp_path: Path) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text("GATEWAY_WORKERS=2\nGATEWAY_REPLICAS=2\n")
    for name in ("GATEWAY_WORKERS", "GATEWAY_REPLICAS", "GATEWAY_PORT"):
        (tmp_path / name).write_text("3\n")
    settings = load_settings(environ={"GATEWAY_WORKERS": "1"}, env_file=env_file, secrets_dir=tmp_path, mode="sandbox")
    assert (settings.workers, settings.replicas, settings.port) == (1, 2, 3)


def test_by_default_the_environment_of_the_process_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", {"GATEWAY_WORKERS": "7"})
    assert load_settings(mode="sandbox").workers == 7
    assert read_variables() == {"GATEWAY_WORKERS": "7"}
    assert Settings().workers == 1


def test_an_empty_value_counts_as_absent_everywhere(tmp_path: Path) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text("GATEWAY_WORKERS=\nGATEWAY_REPLICAS\n")
    (tmp_path / "GATEWAY_WORKERS").write_text("4")
    settings = load_settings(
        environ={"GATEWAY_WORKERS": "", "GATEWAY_PUBLIC_URL": ""},
        env_file=env_file,
        secrets_dir=tmp_path,
        mode="sandbox",
    )
    assert (settings.workers, settings.replicas, settings.public_url) == (4, 1, None)


def test_one_line_end_at_the_end_of_a_secret_file_is_not_part_of_it(tmp_path: Path) -> None:
    (tmp_path / "QUANTAPAY_API_KEY").write_bytes(b"from-a-file\r\n")
    (tmp_path / "QUANTAPAY_WEBHOOK_SECRET").write_bytes(b"two-line-ends\n\n")
    reading = read_settings(environ={}, env_file=None, secrets_dir=tmp_path, mode="sandbox")
    assert reading.settings.quantapay_api_key == SecretStr("from-a-file")
    assert [fault.where for fault in reading.faults] == ["QUANTAPAY_WEBHOOK_SECRET"]


def test_an_absent_secrets_directory_is_fine(tmp_path: Path) -> None:
    for path in (tmp_path / "absent", tmp_path / "file"):
        (tmp_path / "file").touch()
        assert load_settings(environ=COMPLETE, env_file=tmp_path / "absent", secrets_dir=path).warnings == ()


def test_secret_files_that_are_no_text_are_faults(tmp_path: Path) -> None:
    (tmp_path / "QUANTAPAY_API_KEY").write_bytes(b"canary\xff")
    (tmp_path / "GATEWAY_HOST").mkdir()
    (tmp_path / "another-secret").mkdir()
    faults = read_settings(environ={}, env_file=None, secrets_dir=tmp_path, mode="sandbox").faults
    assert [str(fault) for fault in faults] == [
        "GATEWAY_HOST: its secret file cannot be read as UTF-8 text",
        "QUANTAPAY_API_KEY: its secret file cannot be read as UTF-8 text",
    ]


def test_a_secrets_directory_that_cannot_be_listed_is_a_fault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(f"canary {path}")

    monkeypatch.setattr(Path, "iterdir", refuse)  # root may list every directory, so modes would show nothing
    faults = read_settings(environ={}, env_file=None, secrets_dir=tmp_path, mode="sandbox").faults
    assert [fault.where for fault in faults] == ["secrets directory"]


def test_nothing_in_the_env_file_is_expanded(tmp_path: Path) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text("OTHER=x\nexport QUANTAPAY_API_KEY='a${OTHER}$b'\n# comment\n")
    settings = load_settings(environ={}, env_file=env_file, secrets_dir=None, mode="sandbox")
    assert settings.quantapay_api_key == SecretStr("a${OTHER}$b")
    assert read_variables(environ={"OTHER": "y"}, env_file=env_file)["OTHER"] == "y"


def test_an_env_file_with_a_bad_line_or_bad_bytes_is_a_fault(tmp_path: Path) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text('GATEWAY_WORKERS=1\n"canary" 1\n')
    faults = read_settings(environ={}, env_file=env_file, secrets_dir=None, mode="sandbox").faults
    assert [str(fault) for fault in faults] == [".env (line 2): takes one variable a line (example: NAME=value)"]
    env_file.write_bytes(b"GATEWAY_WORKERS=\xff")
    faults = read_settings(environ={}, env_file=env_file, secrets_dir=None, mode="sandbox").faults
    assert [fault.problem for fault in faults] == ["the file cannot be read as UTF-8 text"]
    assert read_settings(environ={}, env_file=tmp_path, secrets_dir=None, mode="sandbox").faults == faults


# What values take


def test_values_are_read_into_their_types() -> None:
    settings = load(
        QUANTAPAY_PAYMENT_HOSTS=" Pay.Example , 127.0.0.1,,[::1]",
        GATEWAY_TRUSTED_PROXIES="10.0.0.0/8, 2001:db8::1",
        QUANTAPAY_BUDGET="5/second",
        QUANTAPAY_URL="http://127.0.0.1:8100/api.php",
        GATEWAY_PUBLIC_URL="https://pay.example:8443",
        GATEWAY_DOCS="off",
        GATEWAY_HOST="::",
        GATEWAY_LOG_FORMAT="console",
        GATEWAY_CONFIG="/etc/gateway.yaml",
    )
    assert settings.quantapay_payment_hosts == ("pay.example", "127.0.0.1", "::1")
    assert settings.trusted_proxies == (ip_network("10.0.0.0/8"), ip_network("2001:db8::1/128"))
    assert settings.quantapay_budget == Quota(5, 1)
    assert not settings.docs
    assert settings.host == "::"
    assert settings.config == Path("/etc/gateway.yaml")


@pytest.mark.parametrize(
    "url",
    [
        "redis://redis", "redis://user:pass@redis:6379/0", "rediss://redis:6380", "redis://[::1]:6379/1",
        "unix:///run/valkey.sock", "unix://:pass@/run/valkey.sock?db=1", "redis+cluster://a:6379,b,c:1",
        "redis+sentinel://:pass@a:26379,b/mymaster/0", "redis+sentinel://a/mymaster", "embedded",
    ],
)  # fmt: skip
def test_every_documented_form_of_a_redis_url_is_taken(url: str) -> None:
    settings = load(GATEWAY_REDIS_URL=url)
    assert settings.redis_url is not None
    assert settings.redis_url.get_secret_value() == url


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("QUANTAPAY_API_KEY", " canary", "blanks around"),
        ("QUANTAPAY_API_KEY", "can\x00ary", "control characters"),
        ("QUANTAPAY_API_KEY", "canäry", "printable ASCII"),
        ("QUANTAPAY_API_KEY", "canary\udcff", "control characters"),
        ("QUANTAPAY_WEBHOOK_SECRET", "canary\n", "blanks around"),
        ("QUANTAPAY_UNSIGNED", "canary", "takes true or false"),
        ("QUANTAPAY_URL", "http://canary.example/api.php", "plain http is allowed to loopback only"),
        ("QUANTAPAY_URL", "https://canary:canary@pay.example/", "login"),
        ("QUANTAPAY_URL", "https://pay.example/#canary", "fragment"),
        ("QUANTAPAY_URL", "canary.example", "not an http or https URL"),
        ("QUANTAPAY_URL", "https://canary.example:99999/", "not an http or https URL"),
        ("QUANTAPAY_URL", "https://[canary/", "not an http or https URL"),
        ("QUANTAPAY_URL", "https://canary example/", "not an http or https URL"),
        ("QUANTAPAY_PAYMENT_HOSTS", "https://canary.example", "without scheme"),
        ("QUANTAPAY_PAYMENT_HOSTS", "*.canary.example", "wildcard"),
        ("QUANTAPAY_PAYMENT_HOSTS", "canary.example:443", "without scheme, port"),
        ("QUANTAPAY_PAYMENT_HOSTS", " , ", "exact host names"),
        ("QUANTAPAY_TIMEOUT", "777666", "from 0.1 to 300 (seconds)"),
        ("QUANTAPAY_TIMEOUT", "nan", "from 0.1 to 300"),
        ("QUANTAPAY_TIMEOUT", "canary s", "from 0.1 to 300"),
        ("QUANTAPAY_BUDGET", "777666", "90/minute"),
        ("GATEWAY_HOST", "https://canary", "without scheme"),
        ("GATEWAY_PORT", "777666", "from 1 to 65535"),
        ("GATEWAY_PORT", "tcp://10.0.0.1:777666", "enableServiceLinks: false"),
        ("GATEWAY_OPS_PORT", "tcp://10.0.0.1:777666", "Kubernetes"),
        ("GATEWAY_WORKERS", "0", "from 1 to 1000"),
        ("GATEWAY_WORKERS", "canary", "whole number"),
        ("GATEWAY_REDIS_URL", "http://canary", "none of the known forms"),
        ("GATEWAY_REDIS_URL", "redis://", "none of the known forms"),
        ("GATEWAY_REDIS_URL", "unix://canary", "none of the known forms"),
        ("GATEWAY_REDIS_URL", "redis+sentinel://canary", "none of the known forms"),
        ("GATEWAY_TRUSTED_PROXIES", "10.7.7.7/8", "zeros after the prefix"),
        ("GATEWAY_TRUSTED_PROXIES", "canary", "networks"),
        ("GATEWAY_PUBLIC_URL", "https://canary.example/", "trailing slash"),
        ("GATEWAY_PUBLIC_URL", "https://canary.example/pay", "without path"),
        ("GATEWAY_DRAIN_SECONDS", "-777666", "from 0 to 600"),
        ("GATEWAY_DOCS", "canary", "on or off"),
        ("GATEWAY_LOG_LEVEL", "CANARY", "debug, info, warning or error"),
        ("GATEWAY_LOG_FORMAT", "canary", "json or console"),
    ],
)
def test_a_bad_value_is_told_by_its_name_what_it_takes_and_an_example(name: str, value: str, words: str) -> None:
    error = refused(**{name: value})
    [fault] = error.faults
    assert fault.where == name
    assert words in str(fault)
    assert f"(example: {fault.example})" in str(error)
    told = f"{error} {error!r} {error.args}".lower()
    assert not any(mark in told for mark in ("canary", "canäry", "777666", "10.7.7.7", "10.0.0.1"))


@given(
    st.dictionaries(st.sampled_from([v.name for v in variables()]), st.text(st.characters(codec="utf-8")), max_size=5)
)
def test_any_texts_are_settings_or_faults_of_those_variables(environ: dict[str, str]) -> None:
    reading = read_settings(environ=environ, env_file=None, secrets_dir=None, mode="sandbox")
    named = {fault.where.removesuffix("_NEXT") for fault in reading.faults}
    assert named <= {name.removesuffix("_NEXT") for name in environ} | {"GATEWAY_OPS_PORT", "GATEWAY_REDIS_URL"}


def test_all_faults_are_named_at_once() -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(environ={"GATEWAY_PORT": "x", "QUANTAPAY_URL": "y"}, env_file=None, secrets_dir=None)
    assert {fault.where for fault in caught.value.faults} == {
        "GATEWAY_PORT",
        "QUANTAPAY_URL",
        "QUANTAPAY_API_KEY",
        "QUANTAPAY_WEBHOOK_SECRET",
        "GATEWAY_REDIS_URL",
    }
    assert str(caught.value).count("\n") == 4


# What belongs together


def test_an_unsigned_gateway_needs_no_webhook_secret() -> None:
    environ = {**COMPLETE, "QUANTAPAY_WEBHOOK_SECRET": "", "QUANTAPAY_UNSIGNED": "true"}
    assert load_settings(environ=environ, env_file=None, secrets_dir=None).quantapay_webhook_secret is None


def test_the_sandbox_requires_nothing() -> None:
    assert load_settings(environ={}, env_file=None, secrets_dir=None, mode="sandbox").redis_url is None


@pytest.mark.parametrize("name", ["QUANTAPAY_API_KEY", "QUANTAPAY_WEBHOOK_SECRET"])
def test_the_next_secret_of_a_rotation_needs_the_first(name: str) -> None:
    reading = read_settings(environ={f"{name}_NEXT": "x"}, env_file=None, secrets_dir=None, mode="sandbox")
    assert [fault.where for fault in reading.faults] == [name]


def test_two_equal_secrets_are_refused_whichever_they_are() -> None:
    error = refused(QUANTAPAY_WEBHOOK_SECRET_NEXT=COMPLETE["QUANTAPAY_API_KEY"])
    assert str(error) == (
        "QUANTAPAY_WEBHOOK_SECRET_NEXT: is the same secret as QUANTAPAY_API_KEY; every secret must differ"
    )


def test_an_embedded_store_serves_one_replica_only() -> None:
    assert load(GATEWAY_REDIS_URL="embedded").replicas == 1
    assert "GATEWAY_REPLICAS" in str(refused(GATEWAY_REDIS_URL="embedded", GATEWAY_REPLICAS="2"))


def test_two_listeners_cannot_share_an_address() -> None:
    assert [fault.where for fault in refused(GATEWAY_OPS_PORT="8080").faults] == ["GATEWAY_OPS_PORT"]
    assert load(GATEWAY_OPS_PORT="8080", GATEWAY_OPS_HOST="127.0.0.2").ops_port == 8080
    assert load(GATEWAY_PORT="0", GATEWAY_OPS_PORT="0").port == 0


# Unknown variables


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("GATEWAY_WORKER", "did you mean GATEWAY_WORKERS?"),
        ("QUANTAPAY_APIKEY", "did you mean QUANTAPAY_API_KEY?"),
        ("QUANTAPAY_COLOUR_OF_THE_MOON_AT_NIGHT", "see docs/configuration.md"),
        ("GATEWAY_SERVICE_HOST", "enableServiceLinks: false"),
        ("QUANTAPAY_GATEWAY_PORT_8080_TCP_ADDR", "enableServiceLinks: false"),
    ],
)
def test_an_unknown_variable_is_a_warning_with_a_hint(name: str, hint: str, tmp_path: Path) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text(f"{name}=canary\n")
    for settings in (load(**{name: "canary"}), load_settings(environ=COMPLETE, env_file=env_file, secrets_dir=None)):
        [warning] = settings.warnings
        assert warning.where == name
        assert hint in str(warning)
        assert "canary" not in str(warning)


def test_an_odd_name_is_not_printed() -> None:
    [warning] = load(**{"GATEWAY_\x1b[31m": "1"}).warnings
    assert warning.where == "GATEWAY_…"


# What a Settings is


def test_secrets_are_named_and_never_shown() -> None:
    settings = load(QUANTAPAY_API_KEY_NEXT="canary-next")
    assert list(settings.secrets()) == ["QUANTAPAY_API_KEY", "QUANTAPAY_API_KEY_NEXT", "QUANTAPAY_WEBHOOK_SECRET"]
    assert settings.secrets()["QUANTAPAY_API_KEY_NEXT"].get_secret_value() == "canary-next"
    for shown in (repr(settings), str(settings), settings.model_dump_json(), str(settings.secrets())):
        assert "canary" not in shown
    assert {variable.name for variable in variables() if variable.secret} == {*settings.secrets(), *(
        "QUANTAPAY_WEBHOOK_SECRET_NEXT", "GATEWAY_REDIS_URL",
    )}  # fmt: skip


def test_settings_are_frozen_and_take_field_names_too() -> None:
    settings = Settings(port=9000, quantapay_budget=Quota(1, 1), trusted_proxies=(ip_network("10.0.0.0/8"),))
    assert settings.port == 9000
    with pytest.raises(ValidationError):
        settings.port = 1  # type: ignore[misc]
    with pytest.raises(ValidationError):
        Settings(colour="red")  # type: ignore[call-arg]
