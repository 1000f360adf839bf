"""The samples of docs/quotes.md run as they stand there, and sign what the gateway takes."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import SecretStr

from gateway.access.quotes import Quote, sign, verify
from gateway.http.problems import PROBLEM_TYPES

PAGE = (Path(__file__).parents[1] / "docs" / "quotes.md").read_text(encoding="utf-8")
SECRET = "the-secret-of-the-storefront-ü-€-🧾"
ORDER_IDS = [
    "ORD-1",
    "a b",
    " blanks around ",
    unicodedata.normalize("NFC", "Café № 1"),
    unicodedata.normalize("NFD", "Café № 1"),
    "注文-42",
    "طلب ٤٢",
    "🧾👩‍💻",
    "\"'`\\ $x ${x} {x} %s <b>&amp;",
    "x" * 255,
]


@dataclass(frozen=True)
class Language:
    """How a sample is run: its file, its program, and what calls `quote` for each list of arguments given as JSON."""

    file: str
    program: str
    calls: str


LANGUAGES = {
    "python": Language(
        "sample.py",
        sys.executable,
        "import json, sys\nfor order in json.loads(sys.argv[1]):\n    print(json.dumps(quote(*order)))\n",
    ),
    "js": Language(
        "sample.mjs",
        "node",
        "for (const order of JSON.parse(process.argv[2])) console.log(JSON.stringify(quote(...order)));\n",
    ),
    "php": Language(
        "sample.php",
        "php",
        'foreach (json_decode($argv[1], true) as $order) { echo json_encode(quote(...$order)), "\\n"; }\n',
    ),
}


def sample(language: str) -> str:
    """Return the first block of the page in this language: the one for the shop's server."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)[0]


@pytest.fixture(params=LANGUAGES)
def run(request, tmp_path):
    """Runs a sample for some orders."""
    language = LANGUAGES[request.param]
    program = shutil.which(language.program)
    if program is None:
        pytest.skip(f"{language.program} is not installed")
    path = tmp_path / language.file
    path.write_text(f"{sample(request.param)}\n{language.calls}", encoding="utf-8")

    def run_it(orders: list[list[str]], **environ: str) -> subprocess.CompletedProcess[str]:
        inherited = {name: text for name, text in os.environ.items() if name != "STOREFRONT_QUOTE_SECRET"}
        return subprocess.run(
            [program, str(path), json.dumps(orders)],
            env={**inherited, **environ},
            capture_output=True,
            encoding="utf-8",
            timeout=60,
            check=False,
        )

    return run_it


def test_a_sample_signs_what_the_gateway_takes(run):
    orders = [["49.90", "EUR", order_id] for order_id in ORDER_IDS]
    done = run(orders, STOREFRONT_QUOTE_SECRET=SECRET)
    assert (done.returncode, done.stderr) == (0, "")
    bodies = [json.loads(line) for line in done.stdout.splitlines()]
    assert [[body["price"], body["currency"], body["order_id"]] for body in bodies] == orders
    for body in bodies:
        assert list(body) == ["price", "currency", "order_id", "timestamp", "signature"]
        quote = Quote("storefront", body["price"], body["currency"], body["order_id"], body["timestamp"])
        assert body["signature"] == sign(quote, SecretStr(SECRET))
        verify(quote, body["signature"], [SecretStr(SECRET)], now=time.time())


def test_a_sample_without_its_secret_signs_nothing(run):
    done = run([["49.90", "EUR", "ORD-1"]])
    assert done.returncode != 0
    assert "signature" not in done.stdout


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_sample_is_ten_lines(language):
    assert len([line for line in sample(language).splitlines() if line.strip()]) <= 10


def test_the_vectors_of_the_page_are_right():
    secret = re.search(r"and the secret `([^`]+)`", PAGE)[1]
    vectors = re.findall(r"^\| `(qpg-quote-v1[^`]+)` \| `([0-9a-f]{64})` \|$", PAGE, re.MULTILINE)
    assert len(vectors) >= 2
    for text, signature in vectors:
        _, client, price, currency, order_id, timestamp = text.split("\\|")
        quote = Quote(client, price, currency, order_id, int(timestamp))
        assert quote.text == text.replace("\\|", "|")
        assert sign(quote, SecretStr(secret)) == signature


def test_every_refusal_named_on_the_page_exists():
    rows = re.findall(r"^\| ([45][0-9]{2}) `([a-z-]+)` \|", PAGE, re.MULTILINE)
    assert len(rows) >= 10
    for status, code in rows:
        assert PROBLEM_TYPES[code].status == int(status)
