"""Fixtures of the tests over raw sockets."""

import pytest

from gateway.http.protocol import BoundedHttpProtocol
from tests.http.raw import Pieces


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> Pieces:
    noted, receive = Pieces(), BoundedHttpProtocol.data_received

    def note(self: BoundedHttpProtocol, data: bytes) -> None:
        noted.sizes.append(len(data))
        receive(self, data)

    monkeypatch.setattr(BoundedHttpProtocol, "data_received", note)
    return noted
