"""The benchmark compares what it says, and says when it cannot."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest

from tests.bench import measure, processor, report, servers, wrk
from tests.bench.findings import Cost, Findings, Growth, Step, Target
from tests.bench.measure import Figures, Spread, alternate, quiet_rounds, ratio
from tests.bench.servers import running_upstream
from tests.bench.subjects import FORM
from tests.bench.wrk import Requests, WrongAnswers, drive, undisturbed


def figures(cpu: float) -> Figures:
    return Figures(cpu=cpu, rate=1000.0, p50=0.001, p99=0.005)


def meeting(stolen: float) -> Figures:
    return replace(figures(1.0), stolen=stolen)


@pytest.fixture(scope="module")
def upstream():
    if shutil.which("wrk") is None:
        pytest.skip("wrk is not installed")
    with running_upstream() as server:
        yield server


def test_a_ratio_compares_within_each_round():
    quick, slow = [figures(1.0), figures(10.0), figures(3.0)], [figures(2.0), figures(10.0), figures(4.0)]
    assert ratio(quick, slow) == Spread(median=0.75, lowest=0.5, highest=1.0)


def test_quiet_is_the_third_of_the_rounds_in_which_least_was_stolen():
    direct = [meeting(stolen) for stolen in (0.0, 0.2, 0.3, 0.01, 0.0, 0.1)]
    through = [meeting(stolen) for stolen in (0.4, 0.0, 0.0, 0.02, 0.5, 0.01)]
    assert quiet_rounds(direct, through) == [3, 5]
    assert quiet_rounds(direct) == [0, 4]


def test_on_a_machine_of_its_own_all_rounds_are_quiet():
    assert quiet_rounds([meeting(0.0)] * 5, [meeting(0.0)] * 5) == [0, 1, 2, 3, 4]


def test_what_the_host_stole_is_read_from_the_kernel(tmp_path, monkeypatch):
    (tmp_path / "stat").write_text("cpu  6776430 9625 804255 6079148 32297 0 191880 330693 0 0\ncpu0 1 2 3\n")
    monkeypatch.setattr(processor, "Path", lambda path: tmp_path / path.removeprefix("/proc/"))
    assert processor.stolen() == 330693 / os.sysconf("SC_CLK_TCK")


def test_every_other_round_goes_backwards_after_a_warm_up():
    driven = []

    def of(name):
        def timed(*, seconds):
            driven.append((name, seconds))
            return figures(1.0)

        return timed

    found = alternate({"a": of("a"), "b": of("b")}, rounds=2, seconds=4.0)
    assert [name for name, seconds in driven if seconds == measure.WARM_UP_SECONDS] == ["a", "b"]
    assert [name for name, seconds in driven if seconds == 4.0] == ["a", "b", "b", "a"]
    assert {name: len(rounds) for name, rounds in found.items()} == {"a": 2, "b": 2}


def test_a_drive_counts_requests_and_times_them(upstream):
    came = drive(upstream.url, FORM, seconds=1, connections=2)
    assert came.requests > 100
    assert 0 < came.p50 <= came.p99 < 1
    assert came.rate == pytest.approx(came.requests / came.seconds)


def test_a_drive_with_another_status_than_expected_fails_and_tells_what_came(upstream):
    with pytest.raises(WrongAnswers, match=r"POST /api\.php: \{'200': [0-9]+\}.* expected 201 only"):
        drive(upstream.url, replace(FORM, status=201), seconds=1, connections=1)


def test_a_drive_to_nobody_fails():
    if shutil.which("wrk") is None:
        pytest.skip("wrk is not installed")
    with pytest.raises(WrongAnswers):
        drive("http://127.0.0.1:1", FORM, seconds=1, connections=1)


def test_what_is_measured_is_the_server_that_was_driven(upstream):
    came = measure.measure(upstream, FORM, seconds=1, connections=2)
    assert 0 < came.cpu < 0.01
    assert processor.seconds(upstream.pid) >= came.cpu


def test_a_disturbed_drive_is_done_again_and_told(monkeypatch, capsys):
    monkeypatch.setattr(wrk, "disturbances", [])
    came = iter([WrongAnswers("503"), 42])

    def act():
        answer = next(came)
        if isinstance(answer, WrongAnswers):
            raise answer
        return answer

    assert undisturbed(act) == 42
    assert wrk.disturbances == ["503"]
    assert "503" in capsys.readouterr().err


def test_a_drive_that_is_always_wrong_ends_the_run(monkeypatch):
    monkeypatch.setattr(wrk, "disturbances", [])

    def act():
        raise WrongAnswers("429")

    with pytest.raises(WrongAnswers):
        undisturbed(act)


def test_numbers_of_two_drives_never_meet_unless_there_are_only_so_many():
    create = Requests("POST", "/", 201, body="<number>")
    starts = [next(text for text in create.arguments() if text.startswith("start=")) for _ in range(2)]
    first, second = (int(text.removeprefix("start=")) for text in starts)
    assert second - first == wrk.APART


@pytest.mark.parametrize(("found", "verdict"), [(1.25, "met"), (1.26, "**missed**")])
def test_a_target_is_met_up_to_its_bound(found, verdict):
    findings = Findings(targets=[Target("cached read, in terms of hello", 1.25, found)])
    assert report.text(findings).splitlines()[-1] == f"| cached read, in terms of hello | 1.25 | {found} | {verdict} |"


def test_the_page_gets_the_tables_between_its_markers_and_keeps_the_rest(tmp_path, monkeypatch):
    page = tmp_path / "performance.md"
    page.write_text(f"# Performance\n\n{report.BEGIN}\nold\n{report.END}\n\n## Profiles\n", encoding="utf-8")
    monkeypatch.setattr(report, "PAGE", page)
    monkeypatch.setattr(report.plots, "IMAGES", tmp_path)
    steps = [Step(size, figures(1e-4), Spread(1.0, 0.9, 1.1)) for size in (10, 10_000)]
    findings = Findings(
        costs=[Cost("cached read", figures(2e-4), "FastAPI, hello", Spread(1.2, 1.1, 1.3))],
        growths=[Growth("clients", "cached read", "clients", steps)],
    )
    report.write(findings, "Measured today.")
    text = page.read_text(encoding="utf-8")
    assert "old" not in text
    assert text.startswith("# Performance\n")
    assert text.endswith(f"{report.END}\n\n## Profiles\n")
    assert "| cached read | 200 µs | 1000 | 1 ms | 5 ms | FastAPI, hello | **1.20** | 1.10–1.30 |" in text
    assert "| 10,000 | 100 µs | 1.00 | 0.90–1.10 |" in text
    assert sorted(path.name for path in tmp_path.glob("*.svg")) == ["performance-clients.svg", "performance-costs.svg"]


def test_a_page_without_markers_is_left_alone(tmp_path, monkeypatch):
    page = tmp_path / "performance.md"
    page.write_text("# Performance\n", encoding="utf-8")
    monkeypatch.setattr(report, "PAGE", page)
    with pytest.raises(ValueError, match="markers"):
        report.write(Findings(), "Measured today.")
    assert page.read_text(encoding="utf-8") == "# Performance\n"


def test_a_missing_tool_is_named_with_its_package(monkeypatch):
    monkeypatch.setattr(
        servers.shutil, "which", lambda name, path=None: None if name == "nginx" else f"/usr/bin/{name}"
    )
    with pytest.raises(SystemExit, match=r"not found: nginx\. On Debian and Ubuntu: apt install nginx-light"):
        servers.require_tools(["wrk", "nginx"])


def test_processor_time_counts_children_that_have_ended():
    before = processor.seconds(os.getpid())
    subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 0.2: pass"], check=True)
    assert processor.seconds(os.getpid()) - before >= 0.15, "user and system, each cut to its last 10 ms"
