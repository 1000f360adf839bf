"""The guard fails when a request takes more than it may, says which, and never passes because nothing was counted."""

import json

import pytest

from gateway.clock import SystemClock
from tests.bench.subjects import BY_NAME
from tests.bench.wrk import CONNECTIONS, Requests
from tests.guard import __main__ as guard
from tests.guard import bounds, callgrind, counted
from tests.guard.bounds import BOUNDS, MANY, UNIT, Verdict, judge, proposed
from tests.guard.caller import Caller
from tests.guard.callgrind import CountFailed
from tests.guard.counted import WAVES, StillClock

KINDS = [UNIT, *BOUNDS]
REQUESTS = WAVES * CONNECTIONS
AT_BOUNDS = {UNIT: 100_000, **{name: round(bound * 100_000) for name, bound in BOUNDS.items()}}


@pytest.fixture
def counts(monkeypatch):
    """What valgrind is said to have counted; a test may change it."""
    found = dict(AT_BOUNDS)
    monkeypatch.setattr(guard, "count", lambda: found)
    monkeypatch.setattr(guard.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(guard.sys, "argv", ["guard"])
    monkeypatch.setattr(guard, "PYTHON", guard.sys.version_info[:2])
    return found


def write_dumps(folder, totals):
    for number, total in enumerate(totals, start=1):
        (folder / f"counts.{number}").write_text(f"version: 1\nsummary: {total}\n\nfn=(1) f\n0 7\n\ntotals: {total}\n")
    (folder / "counts").write_text("totals: 999\n")


def test_a_bound_is_kept_up_to_itself():
    counts = {UNIT: 100, "a": 150, "b": 151}
    assert judge(counts, {"a": 1.5, "b": 1.5}) == [Verdict("a", 1.5, 1.5), Verdict("b", 1.51, 1.5)]
    assert [verdict.is_kept for verdict in judge(counts, {"a": 1.5, "b": 1.5})] == [True, False]


def test_what_is_sent_is_what_has_a_bound():
    assert list(counted.REQUESTS) == KINDS
    assert set(KINDS) - {MANY} <= set(BY_NAME)


def test_new_bounds_leave_the_slack_above_what_was_counted(monkeypatch):
    monkeypatch.setattr(bounds, "SLACK", 1.1)
    counts = {UNIT: 1_000, **dict.fromkeys(BOUNDS, 1_503)}
    assert proposed(counts) == dict.fromkeys(BOUNDS, 1.66), "to hundredths, never below"


def test_the_counts_of_a_run_are_its_every_other_dump(tmp_path):
    totals = [number for kind in range(len(KINDS)) for number in (77, (kind + 1) * REQUESTS)]
    assert len(totals) > 9, "or sorting by name would do"
    write_dumps(tmp_path, totals)
    assert callgrind.read(tmp_path) == {name: kind + 1 for kind, name in enumerate(KINDS)}


def test_a_run_that_was_cut_off_counts_for_nothing(tmp_path):
    write_dumps(tmp_path, [1] * (2 * len(KINDS) - 1))
    with pytest.raises(CountFailed, match="13 counts instead of 14"):
        callgrind.read(tmp_path)


def test_a_dump_without_a_total_counts_for_nothing():
    with pytest.raises(CountFailed, match="no total"):
        callgrind.total("version: 1\nfn=(1) totals: 5\n")


def test_what_takes_too_much_is_named_with_its_ratio_and_bound(counts, capsys):
    counts["create"] *= 2
    with pytest.raises(SystemExit) as ended:
        guard.main()
    ratio, bound = 2 * BOUNDS["create"], BOUNDS["create"]
    assert f"create takes {ratio:.2f} times the instructions of hello, and may take {bound:.2f}" in str(ended.value)
    assert "cached-read" not in str(ended.value)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.endswith("too much")] == ["create"]


def test_requests_at_their_bounds_pass(counts, capsys):
    guard.main()
    assert "too much" not in capsys.readouterr().out


def test_measuring_prints_the_table_to_paste_and_judges_nothing(counts, capsys, monkeypatch):
    monkeypatch.setattr(guard.sys, "argv", ["guard", "--measure"])
    counts["create"] *= 2
    guard.main()
    pasted = "".join(line for line in capsys.readouterr().out.splitlines(keepends=True) if line.startswith('    "'))
    assert json.loads(f"{{{pasted.strip().removesuffix(',')}}}") == proposed(counts)


def test_a_run_that_fails_ends_the_guard_with_its_reason(counts, monkeypatch):
    def fail():
        raise CountFailed("QuantaPay is a teapot")

    monkeypatch.setattr(guard, "count", fail)
    with pytest.raises(SystemExit, match="nothing was counted: QuantaPay is a teapot"):
        guard.main()


def test_without_valgrind_it_fails_and_names_the_package(counts, monkeypatch):
    monkeypatch.setattr(guard.shutil, "which", lambda name: None)
    with pytest.raises(SystemExit, match=r"not found: valgrind.*apt install valgrind"):
        guard.main()


@pytest.mark.parametrize(("strict", "code"), [("", 0), ("1", 1)])
def test_another_python_is_skipped_by_name_unless_strict(counts, monkeypatch, capsys, strict, code):
    monkeypatch.setattr(guard, "PYTHON", (3, 10))
    monkeypatch.setenv("STRICT", strict)
    with pytest.raises(SystemExit) as ended:
        guard.main()
    assert ended.value.code == code
    assert "skipped, as its bounds are of Python 3.10" in capsys.readouterr().out


async def test_a_wave_sends_a_request_for_each_connection_each_with_its_number():
    seen = []

    async def app(scope, receive, send):
        body = (await receive())["body"]
        seen.append((dict(scope["headers"]), scope["path"], scope["query_string"], body))
        await send({"type": "http.response.start", "status": 201 if len(seen) % 2 else 409, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    requests = Requests("POST", "/a?b=c", 201, {"Idempotency-Key": "<number>"}, body="order <number>")
    statuses = await Caller(app, requests).send(2)
    assert statuses == {201: CONNECTIONS, 409: CONNECTIONS}
    assert len({body for _, _, _, body in seen}) == 2 * CONNECTIONS
    for headers, path, query, body in seen:
        assert (path, query, body) == ("/a", b"b=c", b"order " + headers[b"idempotency-key"])
        assert headers[b"content-length"] == b"%d" % len(body)


def test_no_time_passes_while_instructions_are_counted():
    clock = StillClock()
    then = clock.time(), clock.monotonic()
    assert SystemClock().monotonic() > then[1]
    assert (clock.time(), clock.monotonic()) == then
