"""A request as the routes of `http/routing.py` get it."""

from fastapi import Request
from starlette.types import Receive, Scope

from gateway.config import Client
from gateway.http.services import Services


class Call(Request):
    """A request, the services of the process, and who calls, once a guard has found that out."""

    def __init__(self, scope: Scope, receive: Receive, services: Services) -> None:
        super().__init__(scope, receive)
        self.services = services

    @property
    def caller(self) -> Client:
        """Return the client that calls; `KeyError` where none was asked for."""
        client: Client = self.scope["state"]["caller"]
        return client

    @caller.setter
    def caller(self, client: Client) -> None:
        self.scope["state"]["caller"] = client

    @property
    def answer_headers(self) -> list[tuple[bytes, bytes]]:
        """Return headers that the answer will carry, whatever it is: add to them."""
        headers: list[tuple[bytes, bytes]] = self.scope["state"]["answer_headers"]
        return headers
