"""`config check` names every fault of settings and file together."""

from pathlib import Path

from gateway.config import check

KEY = "the-merchants-api-key"
COMPLETE = {
    "QUANTAPAY_API_KEY": KEY,
    "QUANTAPAY_WEBHOOK_SECRET": "the-webhook-secret-of-this-account",
    "GATEWAY_REDIS_URL": "redis://localhost",
}
CLIENT = """
clients:
  - id: shop
    publishable_key: qpk_K3s9vQ0mXw2Zr7Yd1Hc5Ub8Ln4Tf6Gj0Ep_Ia-Oq2SA
    origins: ["https://shop.example"]
    quote_secret: %s
    scopes: [checkout-sessions:write]
"""


def places(environ: dict[str, str], directory: Path, env_file: Path | None = None) -> list[str]:
    faults = check(environ=environ, env_file=env_file, secrets_dir=None, directory=directory)
    assert KEY not in "".join(map(str, faults))
    return [fault.where for fault in faults]


def test_a_good_configuration_has_no_faults(tmp_path: Path) -> None:
    assert places(COMPLETE, tmp_path) == []
    (tmp_path / "gateway.yaml").write_text("cache: {balances: 0}")
    assert places(COMPLETE, tmp_path) == []


def test_faults_of_both_are_named_and_unknown_variables_are_faults(tmp_path: Path) -> None:
    (tmp_path / "gateway.yaml").write_text("cache: {balances: -1}")
    environ = {"QUANTAPAY_API_KEY": KEY, "GATEWAY_PORT": "http", "GATEWAY_WORKER": "2"}
    assert places(environ, tmp_path) == [
        "GATEWAY_PORT",
        "GATEWAY_REDIS_URL",
        "QUANTAPAY_WEBHOOK_SECRET",
        "GATEWAY_WORKER",
        "cache.balances",
    ]


def test_secrets_are_compared_over_settings_and_file_even_beside_other_faults(tmp_path: Path) -> None:
    (tmp_path / "gateway.yaml").write_text(CLIENT % COMPLETE["QUANTAPAY_WEBHOOK_SECRET"])
    assert places({**COMPLETE, "GATEWAY_WORKERS": "0"}, tmp_path) == ["GATEWAY_WORKERS", "clients[0].quote_secret"]


def test_the_file_that_the_settings_name_is_the_one_checked(tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text("cache: {balances: -1}")
    assert places({**COMPLETE, "GATEWAY_CONFIG": str(tmp_path / "other.yaml")}, tmp_path) == ["cache.balances"]
    assert places({**COMPLETE, "GATEWAY_CONFIG": str(tmp_path / "absent.yaml")}, tmp_path) == ["gateway.yaml"]


def test_the_file_may_refer_to_variables_of_the_env_file(tmp_path: Path) -> None:
    (tmp_path / "gateway.yaml").write_text(CLIENT % "${SHOP_SECRET}")
    env_file = tmp_path / ".env"
    env_file.write_text("SHOP_SECRET=a quote secret of enough characters")
    assert places(COMPLETE, tmp_path, env_file) == []
    assert places(COMPLETE, tmp_path) == ["clients[0].quote_secret"]
