"""The file is re-read when its content changes; a bad version changes nothing but the report."""

import asyncio
from pathlib import Path

import pytest

from gateway.clock import SystemClock
from gateway.config import Config, ConfigFault, ConfigFile, ConfigurationError, FixedConfig
from gateway.config.watch import POLL_SECONDS

GOOD, OTHER, BAD = "cache: {balances: 1}\n", "cache: {balances: 2}\n", "cache: {balances: -1}\n"


def put(path: Path, text: str) -> None:
    path.write_text(text)


class HeldClock(SystemClock):
    """Sleeps end when the test says so."""

    def __init__(self) -> None:
        self.slept: list[float] = []
        self.wake = asyncio.Semaphore(0)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await self.wake.acquire()


class Watched:
    """A configuration file with a record of what it reported."""

    def __init__(self, path: Path | None, secrets_dir: Path | None = None) -> None:
        self.clock = HeldClock()
        self.reloads: list[bool] = []
        self.faults: list[ConfigFault] = []
        self.changes: list[Config] = []
        self.reported = asyncio.Event()
        self.file = ConfigFile(
            path,
            environ={},
            secrets_dir=secrets_dir,
            settings_secrets={},
            clock=self.clock,
            on_reload=self._on_reload,
            on_change=self.changes.append,
        )

    def _on_reload(self, success: bool, faults: tuple[ConfigFault, ...]) -> None:
        self.reloads.append(success)
        self.faults.extend(faults)
        self.reported.set()

    @property
    def balances(self) -> int:
        return self.file.current.cache.balances


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "gateway.yaml"
    file.write_text(GOOD)
    return file


def test_a_bad_first_version_stops_the_start(path: Path) -> None:
    path.write_text(BAD)
    with pytest.raises(ConfigurationError, match=r"cache\.balances") as caught:
        Watched(path)
    assert caught.value.__context__ is None


async def test_unchanged_content_is_not_reported(path: Path) -> None:
    watched = Watched(path)
    put(path, GOOD)
    await watched.file.poll()
    assert watched.reloads == []


async def test_a_changed_file_is_taken_at_the_next_look(path: Path) -> None:
    watched = Watched(path)
    looking = asyncio.create_task(watched.file.run())
    put(path, OTHER)
    watched.clock.wake.release()
    await asyncio.wait_for(watched.reported.wait(), 5)
    looking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await looking
    assert watched.balances == 2
    assert watched.reloads == [True]
    assert [config.cache.balances for config in watched.changes] == [2]
    assert set(watched.clock.slept) == {POLL_SECONDS}


async def test_a_swapped_configmap_is_seen_through_its_symlinks(tmp_path: Path) -> None:
    for version, text in (("..2026_01", GOOD), ("..2026_02", OTHER)):
        (tmp_path / version).mkdir()
        (tmp_path / version / "gateway.yaml").write_text(text)
    (tmp_path / "..data").symlink_to("..2026_01")
    (tmp_path / "gateway.yaml").symlink_to("..data/gateway.yaml")
    watched = Watched(tmp_path / "gateway.yaml")

    (tmp_path / "..data_tmp").symlink_to("..2026_02")
    (tmp_path / "..data_tmp").rename(tmp_path / "..data")
    await watched.file.poll()
    assert watched.balances == 2


async def test_a_bad_version_keeps_the_old_one_and_is_reported_once(path: Path) -> None:
    watched = Watched(path)
    put(path, BAD)
    await watched.file.poll()
    await watched.file.poll()
    assert watched.balances == 1
    assert watched.reloads == [False]
    assert [fault.where for fault in watched.faults] == ["cache.balances"]
    assert watched.changes == []


async def test_a_mended_file_counts_as_a_success_again(path: Path) -> None:
    watched = Watched(path)
    for text in (BAD, GOOD, OTHER):
        put(path, text)
        await watched.file.poll()
    assert watched.reloads == [False, True, True]
    assert [config.cache.balances for config in watched.changes] == [2]


async def test_a_file_that_vanishes_keeps_the_old_version(path: Path) -> None:
    watched = Watched(path)
    await asyncio.to_thread(path.unlink)
    await watched.file.poll()
    await watched.file.poll()
    assert watched.reloads == [False]
    assert watched.balances == 1


async def test_reload_reads_secret_files_again_though_the_file_is_the_same(path: Path, tmp_path: Path) -> None:
    secret = tmp_path / "hook"
    put(secret, "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD")
    put(path, "subscribers: [{id: a, url: 'http://localhost/', secret: '${file:hook}'}]")
    watched = Watched(path, secrets_dir=tmp_path)
    put(secret, "whsec_TmV4dCBzZWNyZXQgZm9yIG9yZGVycyBob29r")
    await watched.file.poll()
    assert watched.changes == []
    watched.file.reload()
    assert len(watched.changes) == 1
    assert watched.reloads == [True]


async def test_without_a_file_nothing_ever_changes() -> None:
    watched = Watched(None)
    await watched.file.poll()
    watched.file.reload()
    assert watched.file.current == Config() == FixedConfig().current
    assert watched.changes == []


async def test_callbacks_may_be_left_out(path: Path) -> None:
    file = ConfigFile(path, environ={}, secrets_dir=None, settings_secrets={}, clock=SystemClock())
    put(path, OTHER)
    await file.poll()
    assert file.current.cache.balances == 2
