"""The servers of a run, and how long each of them is driven."""

from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass

from tests.bench.servers import GatewayServer, Server, running_gateway, running_nginx, running_peer, running_upstream


@dataclass(frozen=True, slots=True)
class Pace:
    """How long a run takes."""

    rounds: int
    seconds: float
    """Of each drive."""
    connections: int


class Field:
    """The servers that are up, each started when it is first asked for."""

    def __init__(self, stack: ExitStack, pace: Pace) -> None:
        self._stack = stack
        self._up: dict[str, Server] = {}
        self.pace = pace
        self.upstream = stack.enter_context(running_upstream())

    def server(self, name: str) -> Server:
        """Return the gateway, or the peer of this name."""
        if name not in self._up:
            self._up[name] = self._stack.enter_context(self._start(name))
        return self._up[name]

    @property
    def gateway(self) -> GatewayServer:
        """Return the gateway of one worker that most drives share."""
        gateway = self.server("gateway")
        assert isinstance(gateway, GatewayServer)
        return gateway

    def _start(self, name: str) -> AbstractContextManager[Server]:
        match name:
            case "gateway":
                return running_gateway(self.upstream)
            case "nginx":
                return running_nginx(self.upstream)
            case _:
                return running_peer(name, self.upstream)
