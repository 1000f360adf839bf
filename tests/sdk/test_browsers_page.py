"""docs/browsers.md says what is so."""

import re
from pathlib import Path

from gateway.http.problems import PROBLEM_TYPES
from tests.plugins.gateway import QUOTE_SECRET, quote

PAGE = (Path(__file__).parents[2] / "docs" / "browsers.md").read_text(encoding="utf-8")


def test_every_error_in_the_table_exists_with_its_status():
    rows = re.findall(r"^\| (\d{3}) ((?:`[a-z-]+`(?:, )?)+) \|", PAGE, re.MULTILINE)
    named = {code: int(status) for status, codes in rows for code in re.findall(r"`([a-z-]+)`", codes)}
    assert len(named) >= 10
    assert {code: PROBLEM_TYPES[code].status for code in named} == named


def test_the_servers_sample_reads_a_session_with_the_quote_secret(gateway):
    [sample] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names = {}
    exec(sample, names)
    made = gateway.browser.post("/checkout-sessions", json=quote(order_id="ORD-shipping")).json()
    found = names["session"](gateway.url, made["id"], QUOTE_SECRET)
    assert found["status"] == "open"
    assert (found["order_id"], found["price"], found["currency"]) == ("ORD-shipping", "49.99", "usd")


def test_the_policy_is_the_one_that_the_sandbox_proves():
    [policy] = re.findall(r"Content-Security-Policy: (.*?)```", PAGE, re.DOTALL)
    names = {directive.split()[0] for directive in policy.split(";") if directive.strip()}
    assert names == {
        "default-src", "script-src", "connect-src", "img-src", "style-src", "base-uri", "form-action", "frame-ancestors"
    }  # fmt: skip
