"""A real Valkey for tests: one for the session, and private ones that a test may kill, freeze and restart."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from gateway.store.embedded import EmbeddedValkey


class ValkeyServer:
    """A running Valkey that keeps nothing on disk."""

    def __init__(self, directory: Path) -> None:
        self._embedded = EmbeddedValkey(directory, durable=False)
        self._embedded.start()

    @property
    def url(self) -> str:
        return self._embedded.url

    @property
    def pid(self) -> int:
        assert self._embedded.pid is not None
        return self._embedded.pid

    def client(self) -> redis.Redis:
        """Return a blocking client of redis-py, to look from outside; close it or use it in a `with`."""
        return redis.Redis.from_url(self.url)

    def flush(self) -> None:
        """Forget all keys and scripts."""
        with self.client() as client:
            client.flushall()
            client.script_flush()

    def pause(self) -> None:
        """Freeze it: connections open and stay open, nothing is answered."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """End it as a crash would."""
        os.kill(self.pid, signal.SIGKILL)
        self.stop()

    def restart(self) -> None:
        """Start it again, empty, at the same URL."""
        self.stop()
        self._embedded.start()

    def stop(self) -> None:
        self._embedded.stop()


@pytest.fixture(scope="session")
def _session_valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    server = ValkeyServer(tmp_path_factory.mktemp("valkey"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def _undisturbed_valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    server = ValkeyServer(tmp_path_factory.mktemp("valkey"))
    yield server
    server.stop()


@pytest.fixture
def valkey(request: pytest.FixtureRequest) -> ValkeyServer:
    """A Valkey of the session, empty. Do not stop or freeze it.

    A test with gateways gets the one that they are on. Others get one that no gateway uses: theirs would take the
    turns, see the changes and leave the keys of these tests.
    """
    with_gateways = {"settings_of", "start_gateway"} & set(request.fixturenames)
    server: ValkeyServer = request.getfixturevalue("_session_valkey" if with_gateways else "_undisturbed_valkey")
    server.flush()
    return server


@pytest.fixture
def valkey_factory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], ValkeyServer]]:
    """Starts private servers, which end with the test."""
    servers: list[ValkeyServer] = []

    def start() -> ValkeyServer:
        servers.append(ValkeyServer(tmp_path_factory.mktemp("valkey")))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()
