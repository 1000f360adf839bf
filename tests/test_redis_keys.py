"""Every key in Redis is one that docs/redis.md tells of, ends by itself, and names nobody's data."""

import re
from pathlib import Path

from tests.plugins.gateway import MARKER, ORDERS_KEY, example_config, running

PAGE = (Path(__file__).parents[1] / "docs" / "redis.md").read_text(encoding="utf-8")
LONGEST = 30 * 24 * 3600 * 1000
SHAPES = {"<client>": "[a-z0-9-]+", "<sha256>": "[0-9a-f]{32}", "<endpoint>": "[0-9a-f]{16}"}


def documented() -> list[re.Pattern[str]]:
    """Read the first column of the table; `…` stands for what the key before it begins with."""
    patterns, stem = [], ""
    for row in re.findall(r"^\| (`[^|]+) \|", PAGE, re.MULTILINE):
        for name in re.findall(r"`([^`]+)`", row):
            if not name.startswith("…"):
                stem = name.rpartition(":")[0]
            pattern = re.escape(name.replace("…", stem))
            for placeholder, shape in SHAPES.items():
                pattern = pattern.replace(re.escape(placeholder), shape)
            patterns.append(re.compile(pattern))
    return patterns


def test_every_key_is_documented_ends_by_itself_and_holds_no_secret(settings_of, simulator, valkey_factory):
    server = valkey_factory()
    config = example_config()
    del config["cache"]
    with running(settings_of(config, redis_url=server.url)) as outside:
        outside.http.get("/balances")
        outside.http.get("/exchange-rates/btc?currency=usd")
        order = {"price": "1.00", "currency": "usd", "order_id": "order-of-somebody"}
        headers = {"Idempotency-Key": "key-of-somebody"}
        assert outside.http.post("/checkout-sessions", json=order, headers=headers).status_code == 201
        simulator.scenario("slow", seconds=0.5)
        simulator.scenario("throttled-429", function="get-credit-balance")
        outside.http.get("/credit-balance")
        with server.client() as redis:
            keys = {key.decode(): redis.pttl(key) for key in redis.scan_iter("*")}
            values = b"".join(redis.dump(key) for key in keys)

    patterns = documented()
    assert patterns
    kinds = set()
    for key, left in keys.items():
        assert 0 < left <= LONGEST, f"{key} does not end by itself"
        matching = [pattern.pattern for pattern in patterns if pattern.fullmatch(key)]
        assert len(matching) == 1, f"{key} is not in docs/redis.md"
        kinds.update(matching)
        assert "somebody" not in key
    assert len(kinds) >= 8, "the test does not make most of the keys any more"
    for secret in (MARKER, ORDERS_KEY):
        assert secret.encode() not in values
