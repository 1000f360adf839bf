"""A Valkey that no gateway of the session uses: theirs would take the turns, and see the changes, of these tests."""

from collections.abc import Iterator

import pytest

from tests.plugins.valkey import ValkeyServer


@pytest.fixture(scope="session")
def _undisturbed_valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    server = ValkeyServer(tmp_path_factory.mktemp("valkey"))
    yield server
    server.stop()


@pytest.fixture
def valkey(_undisturbed_valkey: ValkeyServer) -> ValkeyServer:
    """The server of these tests, empty. Do not stop or freeze it."""
    _undisturbed_valkey.flush()
    return _undisturbed_valkey
