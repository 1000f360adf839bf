"""The operators' listener: what it answers, and how its page is fenced in."""

import base64
import hashlib
import re


def test_the_page_is_whole_and_its_policy_names_what_is_in_it(gateway):
    answer = gateway.ops("/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    inline = {tag: re.findall(rf"<{tag}[^>]*>(.+?)</{tag}>", answer.text, re.DOTALL) for tag in ("script", "style")}
    for tag, texts in inline.items():
        assert len(texts) == 1
        digest = base64.b64encode(hashlib.sha256(texts[0].encode()).digest()).decode()
        assert policy[f"{tag}-src"] == f"'sha256-{digest}'"
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert policy["connect-src"] == "'self'"
    assert not re.search(r"\bon[a-z]+=|https?://|style=", answer.text)


def test_programs_get_json_and_no_page_elsewhere_may_read_it(gateway):
    elsewhere = {"Origin": "https://elsewhere.example"}
    for path in ("/status", "/livez"):
        answer = gateway.ops(path)
        assert answer.headers["content-type"] == "application/json"
    with gateway.client(None, **elsewhere) as other:
        assert "access-control-allow-origin" not in other.get(f"{gateway.ops_url}/status").headers


def test_what_is_not_there_is_a_problem(gateway):
    answer = gateway.ops("/nothing")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "not-found"
