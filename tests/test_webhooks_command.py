"""`quantapay-gateway webhooks`: what an operator sees of dead letters, and does about them."""

import asyncio
import json
import os
import pty
import subprocess
import sys
from base64 import b64encode
from contextlib import suppress

import pytest
import yaml
from redis.asyncio import Redis
from typer.testing import CliRunner

from gateway.cli.program import app
from gateway.clock import SystemClock
from gateway.store.embedded import EmbeddedValkey
from gateway.store.queue import put
from gateway.store.redis import Store
from gateway.telemetry.metrics import Metrics
from gateway.webhooks.outbox import subscriber_queue

SECRET = "whsec_Q0FOQVJZ"
"""How each secret here begins."""
IDS = [f"msg_{number:032x}" for number in range(3)]
STEERING = "\x1b[2J\u202e[bold]:smile:\t№\n" + "x" * 500
FIELDS = ["subscriber", "id", "type", "transaction", "order_id", "given_up_at", "attempts", "error"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder with a gateway.yaml of two subscribers, and no variables of ours."""
    for name in os.environ:
        if name.startswith(("GATEWAY_", "QUANTAPAY_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    configure(tmp_path, "orders", "mail")
    return tmp_path


@pytest.fixture
def at_hand(here, valkey, monkeypatch):
    monkeypatch.setenv("GATEWAY_REDIS_URL", valkey.url)
    return valkey


def configure(folder, *subscribers):
    entries = [
        {"id": name, "url": "https://a.example/hook", "secret": SECRET + b64encode(name.encode().ljust(24)).decode()}
        for name in subscribers
    ]
    (folder / "gateway.yaml").write_text(yaml.safe_dump({"subscribers": entries}), encoding="utf-8")


def with_store(url, work):
    async def connected():
        store = Store(Redis.from_url(url, socket_timeout=20), clock=SystemClock(), metrics=Metrics(), deadline=20)
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(connected())


def die(url, message_id, *subscribers, order_id="ORD-1", error="HTTP 410"):
    async def work(store):
        transaction = {"id": "42", "order_id": order_id, "title": "CANARY-title"}
        body = json.dumps({"type": "payment.completed", "data": {"transaction": transaction}})
        queues = [subscriber_queue(store, name) for name in subscribers]
        await put(store, queues, message_id, body)
        for queue in queues:
            [taken] = await queue.take(1)
            await queue.bury(taken, error=error)

    with_store(url, work)


def backlogs(url):
    """Return what waits and what is dead, by subscriber."""

    async def work(store):
        found = {name: await subscriber_queue(store, name).backlog() for name in ("orders", "mail")}
        return {name: (backlog.waiting, backlog.dead) for name, backlog in found.items()}

    return with_store(url, work)


def run(*arguments, answer=None, code=0):
    done = CliRunner().invoke(app, ["webhooks", *arguments], input=answer)
    assert done.exception is None or isinstance(done.exception, SystemExit)
    assert SECRET not in done.output
    assert "CANARY" not in done.output
    assert done.exit_code == code, done.output
    return done


def said(done):
    return " ".join(done.stderr.replace("│", " ").split())


def test_a_letter_is_a_line_with_tabs_when_nobody_watches(at_hand):
    die(at_hand.url, IDS[0], "orders", "mail")
    die(at_hand.url, IDS[1], "orders", order_id=None, error="timeout")
    lines = [line.split("\t") for line in run("list").stdout.splitlines()]
    assert [(line[0], line[1], *line[2:5], *line[6:]) for line in lines] == [
        ("orders", IDS[1], "payment.completed", "42", "-", "1", "timeout"),
        ("orders", IDS[0], "payment.completed", "42", "ORD-1", "1", "HTTP 410"),
        ("mail", IDS[0], "payment.completed", "42", "ORD-1", "1", "HTTP 410"),
    ]
    for line in lines:
        assert line[5].endswith("Z")


def test_json_lines_hold_every_field_whole_in_ascii(at_hand):
    die(at_hand.url, IDS[0], "orders", order_id=STEERING)
    done = run("list", "--json")
    assert done.stdout.isascii()
    [letter] = [json.loads(line) for line in done.stdout.splitlines()]
    assert list(letter) == FIELDS
    assert letter["order_id"] == STEERING
    assert "\x1b" not in done.stdout


def test_no_text_of_a_payers_steers_the_terminal_or_fills_it(at_hand):
    die(at_hand.url, IDS[0], "orders", order_id=STEERING, error=STEERING)
    [line] = run("list").stdout.splitlines()
    cells = line.split("\t")
    assert len(cells) == len(FIELDS)
    for cell in (cells[4], cells[7]):
        assert cell.isprintable()
        assert cell.startswith("\ufffd[2J\ufffd[bold]:smile:\ufffd№\ufffdxxx")
        assert len(cell) == 100


def test_only_those_of_one_subscriber_are_listed(at_hand):
    die(at_hand.url, IDS[0], "orders", "mail")
    assert run("list", "--subscriber", "mail").stdout.startswith("mail\t")
    assert "--subscriber" in said(run("list", "--subscriber", "shop", code=2))
    assert "there are: orders, mail" in said(run("list", "--subscriber", "shop", code=2))


def test_nothing_to_list_is_said_beside_the_list(at_hand):
    done = run("list")
    assert (done.stdout, done.stderr) == ("", "No dead letters.\n")
    assert run("list", "--json").output == ""


def test_letters_are_replayed_by_id_for_every_subscriber_or_one(at_hand):
    for message_id in IDS:
        die(at_hand.url, message_id, "orders", "mail")
    assert run("replay", IDS[0], IDS[1], IDS[0]).stdout == "4 dead letters will be delivered again.\n"
    assert backlogs(at_hand.url) == {"orders": (2, 1), "mail": (2, 1)}
    assert run("replay", IDS[2], "--subscriber", "mail").stdout == "1 dead letter will be delivered again.\n"
    assert backlogs(at_hand.url) == {"orders": (2, 1), "mail": (3, 0)}


def test_an_id_that_is_not_dead_is_named_and_the_others_are_replayed(at_hand):
    die(at_hand.url, IDS[0], "orders")
    done = run("replay", "msg_absent", IDS[0], "m\udcff", code=1)
    assert done.stdout == "1 dead letter will be delivered again.\n"
    assert "no dead letter msg_absent" in done.stderr
    assert "no dead letter m\ufffd" in done.stderr
    assert backlogs(at_hand.url)["orders"] == (1, 0)


def test_all_are_replayed(at_hand):
    for message_id in IDS:
        die(at_hand.url, message_id, "orders", "mail")
    assert run("replay", "--all", "--subscriber", "orders").stdout.startswith("3 dead letters")
    assert backlogs(at_hand.url) == {"orders": (3, 0), "mail": (0, 3)}
    assert run("replay", "--all").stdout.startswith("3 dead letters")
    assert run("replay", "--all").stdout.startswith("0 dead letters")
    assert backlogs(at_hand.url) == {"orders": (3, 0), "mail": (3, 0)}


def test_letters_are_discarded_by_id_without_asking(at_hand):
    die(at_hand.url, IDS[0], "orders", "mail")
    assert run("discard", IDS[0], "--subscriber", "orders").stdout == "1 dead letter discarded.\n"
    assert backlogs(at_hand.url) == {"orders": (0, 0), "mail": (0, 1)}
    assert "no dead letter" in run("discard", IDS[0], "--subscriber", "orders", code=1).stderr


@pytest.mark.parametrize("answer", ["n\n", "\n", ""])
def test_all_are_discarded_only_by_who_says_yes(at_hand, answer):
    for message_id in IDS:
        die(at_hand.url, message_id, "orders")
    done = run("discard", "--all", answer=answer, code=1)
    assert "Discard 3 events for good?" in done.stderr
    assert backlogs(at_hand.url)["orders"] == (0, 3)
    run("discard", "--all", answer="y\n")
    assert backlogs(at_hand.url)["orders"] == (0, 0)


def test_a_script_says_yes_beforehand_and_nothing_to_discard_is_not_asked_about(at_hand):
    die(at_hand.url, IDS[0], "orders", "mail")
    done = run("discard", "--all", "--yes")
    assert (done.stdout, done.stderr) == ("2 dead letters discarded.\n", "")
    assert run("discard", "--all").stdout == "0 dead letters discarded.\n"


@pytest.mark.parametrize("command", ["replay", "discard"])
def test_either_ids_or_all_must_be_named(at_hand, command):
    assert "name ids, or say --all" in said(run(command, code=2))
    assert "name ids, or say --all" in said(run(command, IDS[0], "--all", code=2))


@pytest.mark.parametrize("arguments", [["list"], ["replay", IDS[0]], ["discard", "--all"]], ids=str)
def test_without_redis_it_is_said_what_to_look_at(here, monkeypatch, arguments):
    monkeypatch.setenv("GATEWAY_REDIS_URL", "redis://:CANARY-password@127.0.0.1:1/0")
    assert "GATEWAY_REDIS_URL" in said(run(*arguments, code=1))


def test_faults_of_the_configuration_are_named(here, at_hand, monkeypatch):
    monkeypatch.delenv("GATEWAY_REDIS_URL")
    assert "GATEWAY_REDIS_URL: required" in said(run("list", code=2))
    monkeypatch.setenv("GATEWAY_REDIS_URL", "CANARY")
    assert "GATEWAY_REDIS_URL" in said(run("list", code=2))
    monkeypatch.setenv("GATEWAY_REDIS_URL", at_hand.url)
    (here / "gateway.yaml").write_text("subscribers: [{id: CANARY}]")
    assert "subscribers[0]" in said(run("list", code=2))
    configure(here)
    assert "gateway.yaml has no subscribers" in said(run("list"))
    assert "there are: none" in said(run("list", "--subscriber", "orders", code=2))


@pytest.mark.parametrize("depth", [0, 3], ids=["", "whose socket is elsewhere"])
def test_the_embedded_valkey_of_a_running_gateway_is_found(here, monkeypatch, depth):
    directory = here.joinpath(*["d" * 60] * depth, "data")
    monkeypatch.setenv("GATEWAY_REDIS_URL", "embedded")
    monkeypatch.setenv("GATEWAY_DATA_DIR", str(directory))
    not_there = said(run("list", code=1))
    assert "start the gateway" in not_there
    assert "GATEWAY_DATA_DIR" in not_there
    for _ in range(2):
        with EmbeddedValkey(directory) as server:
            die(server.url, IDS[0], "orders")
            assert run("list").stdout.count("\n") == 1
            run("discard", IDS[0])
        assert "start the gateway" in said(run("list", code=1))


def test_a_directory_that_may_not_be_looked_into_is_said(here, monkeypatch):
    (here / "data").write_text("a file")
    monkeypatch.setenv("GATEWAY_REDIS_URL", "embedded")
    monkeypatch.setenv("GATEWAY_DATA_DIR", str(here / "data"))
    assert "GATEWAY_DATA_DIR" in said(run("list", code=1))


@pytest.mark.parametrize("command", ["list", "replay", "discard"])
def test_the_help_has_examples(command):
    assert f"quantapay-gateway webhooks {command}" in run(command, "--help").stdout


def test_in_a_terminal_it_is_a_table_whose_ids_are_whole(at_hand):
    """From outside, on a terminal that knows only ASCII."""
    die(at_hand.url, IDS[0], "orders", order_id="№ [bold]\x1b[2J")
    ours, theirs = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "webhooks", "list"],
        env={**os.environ, "PYTHONIOENCODING": "ascii", "TERM": "dumb"},
        stdout=theirs,
        stderr=subprocess.PIPE,
        timeout=60,
        check=True,
    )
    os.close(theirs)
    shown = b""
    with suppress(OSError):  # how the end of a terminal reads
        while part := os.read(ours, 65_536):
            shown += part
    os.close(ours)
    head, row = shown.decode("ascii").split("\r\n")[:2]
    assert " ".join(head.split()) == "subscriber id type transaction order id given up attempts last error"
    assert f"orders      {IDS[0]}  payment.completed  42           ? [bold]?[2J  " in row
    assert b"\x1b[2J" not in shown
    assert done.stderr == b""
