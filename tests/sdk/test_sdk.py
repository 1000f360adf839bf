"""The browser SDK: how it behaves in Node, how small it is, what it touches, and how it is served."""

import re
import shutil
import string
import subprocess
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from gateway.routes import sdk

HERE = Path(__file__).parent
SDK = HERE.parents[1] / "gateway" / "sdk"
SOURCE = (SDK / "v1.js").read_text(encoding="utf-8")
TYPES = (SDK / "v1.d.ts").read_text(encoding="utf-8")
CODE = re.sub(r"/\*.*?\*/|(?<= )// [^\n]*", "", SOURCE, flags=re.DOTALL)

LOCAL_NAMES = [
    "HOME", "FINAL", "RETRY", "LONGEST_RETRY", "FOREVER", "SILENCE", "ask", "tell", "follow", "pause", "unexpected",
    "mayPass", "eventsOf", "unlessSilent", "afterReturn", "backoff", "changed", "changes", "connection", "content",
    "decoder", "failures", "field", "hangUp", "line", "lines", "milliseconds", "promise",
    "reader", "reject", "resolve", "response", "rest", "retryAfter", "stop", "text", "timer",
]  # fmt: skip
"""Names that are no part of what others see; every minifier makes one letter of each."""


def minified() -> str:
    """Do to the code what minifiers do, but less."""
    # Strings, templates and regular expressions stay as they are.
    literal = r'"[^"\n]*"|`[^`]*`|(?<=[(= ])/(?:\\.|[^/\n])+/\w*'
    parts = re.split(f"({literal})", CODE)
    letters = dict(zip(LOCAL_NAMES, string.ascii_letters, strict=False))
    for index in range(0, len(parts), 2):
        code = re.sub(r"\s+", " ", parts[index])
        code = re.sub(r" ?([{}()\[\]=<>,;:?+*&|!]) ?", r"\1", code)
        # Not where a name is a property: after a dot, or before a colon.
        parts[index] = re.sub(r"(?<![\w.])\w+(?![\w:])", lambda found: letters.get(found[0], found[0]), code)
    return "".join(parts).strip()


@pytest.fixture(scope="module")
def node() -> str:
    program = shutil.which("node")
    if program is None:
        pytest.skip("node is not installed")
    return program


@pytest.mark.parametrize("form", ["as it is", "minified"])
def test_it_behaves(form, node, tmp_path):
    # Node 18 takes .mjs for a module, and .js only beside a package.json that says so.
    module = tmp_path / "v1.mjs"
    module.write_text(SOURCE if form == "as it is" else minified(), encoding="utf-8")
    done = subprocess.run(
        [node, "--test", str(HERE / "v1.test.mjs")],
        env={"PATH": "/usr/bin:/bin", "SDK": module.as_uri()}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(re.findall(r"^# pass (\d+)$", done.stdout, re.MULTILINE)[-1]) >= 1


def test_it_is_under_4_kb_minified():
    assert len(minified().encode()) < 4000


def test_it_keeps_nothing_says_nothing_and_loads_nothing():
    for word in ("console", "Storage", "cookie", "indexedDB", "document", "eval", "Function", "import(", "require"):
        assert word not in CODE
    assert not re.search(r"^import\b", CODE, re.MULTILINE)


def test_the_types_name_every_export_and_every_option():
    exports = re.findall(r"^export (?:async )?(class|function) (\w+)", CODE, re.MULTILINE)
    assert {name for _, name in exports} == {"CheckoutError", "createCheckout", "watchCheckout"}
    for kind, name in exports:
        assert f"export {kind} {name}" in TYPES
    for option in ("gateway", "key", "quote", "signal", "session", "id", "token", "onChange"):
        assert re.search(rf"\b{option}\??:", TYPES), option
    for member in re.findall(r"this\.(\w+) =", CODE):
        assert f"readonly {member}" in TYPES


@pytest.fixture
async def http():
    app = FastAPI()
    app.include_router(sdk.router)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway.test") as client:
        yield client


@pytest.mark.parametrize(
    ("name", "media_type", "content"), [("v1.js", "text/javascript", SOURCE), ("v1.d.ts", "text/plain", TYPES)]
)
async def test_any_page_may_load_it_and_keep_it_for_an_hour(http, name, media_type, content):
    answer = await http.get(f"/sdk/{name}")
    assert answer.status_code == 200
    assert answer.text == content
    assert answer.headers["content-type"] == f"{media_type}; charset=utf-8"
    assert answer.headers["cache-control"] == "public, max-age=3600"
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.headers["cross-origin-resource-policy"] == "cross-origin"
    assert re.fullmatch(r'"[0-9a-f]{32}"', answer.headers["etag"])


@pytest.mark.parametrize("sent", ["{etag}", '"other", {etag}', "W/{etag}", "*"])
async def test_who_has_it_is_not_sent_it_again(http, sent):
    etag = (await http.get("/sdk/v1.js")).headers["etag"]
    answer = await http.get("/sdk/v1.js", headers={"If-None-Match": sent.format(etag=etag)})
    assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", etag)
    assert answer.headers["access-control-allow-origin"] == "*"


async def test_who_has_another_version_is_sent_this_one(http):
    assert (await http.get("/sdk/v1.js", headers={"If-None-Match": '"0"'})).status_code == 200


async def test_nothing_else_is_in_there(gateway):
    for name in ("__init__.py", "v2.js", "..%2Fapp.py"):
        assert gateway.http.get(f"/sdk/{name}").status_code == 404
