"""`/simulator/…`: turning scenarios on, looking at the calls, changing the account, sending webhooks."""

import json
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, ValidationError, field_validator
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gateway.sandbox.simulator.php import Json
from gateway.sandbox.simulator.scenarios import SCENARIOS
from gateway.sandbox.simulator.switchboard import Switch
from gateway.sandbox.simulator.webhooks import WebhookSettings
from gateway.sandbox.simulator.world import World

_FIELDS: TypeAdapter[dict[str, JsonValue]] = TypeAdapter(dict[str, JsonValue])


class ScenarioRequest(BaseModel):
    """The body of `POST /simulator/scenario`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str
    function: str | None = None
    times: Annotated[int, Field(ge=1)] | None = None
    seconds: Annotated[float, Field(ge=0, le=3600)] | None = None

    @field_validator("name")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if name not in SCENARIOS:
            raise ValueError("no such scenario; GET /simulator/scenarios lists them")
        return name

    def switch(self) -> Switch:
        """Return the switch to turn on, with the scenario's own delay unless one was given."""
        seconds = SCENARIOS[self.name].seconds if self.seconds is None else self.seconds
        return Switch(scenario=self.name, function=self.function, times=self.times, seconds=seconds)


class WebhookRequest(BaseModel):
    """The body of `POST /simulator/webhooks`: which row to send, and fields of it that are to differ."""

    model_config = ConfigDict(extra="allow", strict=True)
    __pydantic_extra__: dict[str, JsonValue]

    transaction_id: int | None = None


class Control:
    """The control API over one world. Answers are JSON; a bad body gets 400 with a reason."""

    def __init__(self, world: World) -> None:
        self._world = world

    def routes(self) -> list[Route]:
        """Return the routes to mount under `/simulator`."""
        return [
            Route("/scenarios", self.list_scenarios, methods=["GET"]),
            Route("/scenario", self.turn_on, methods=["POST"]),
            Route("/scenario", self.turn_off, methods=["DELETE"]),
            Route("/calls", self.list_calls, methods=["GET"]),
            Route("/calls", self.clear_calls, methods=["DELETE"]),
            Route("/transactions", self.insert_transaction, methods=["POST"]),
            Route("/transactions/{transaction_id:int}", self.amend_transaction, methods=["POST"]),
            Route("/webhooks", self.list_webhooks, methods=["GET"]),
            Route("/webhooks", self.set_webhooks, methods=["PUT"]),
            Route("/webhooks", self.send_webhook, methods=["POST"]),
            Route("/reset", self.reset, methods=["POST"]),
        ]

    async def list_scenarios(self, _request: Request) -> Response:
        """Name every scenario, and those that are on."""
        known = [{"name": name, "summary": scenario.summary} for name, scenario in SCENARIOS.items()]
        active = [switch.as_json() for switch in self._world.switchboard.active()]
        return JSONResponse({"scenarios": known, "active": active})

    async def turn_on(self, request: Request) -> Response:
        """Turn a scenario on, for all calls or one function, for ever or some calls."""
        try:
            switch = ScenarioRequest.model_validate_json(await request.body()).switch()
        except ValidationError as fault:
            return _bad_request(fault)
        self._world.switchboard.turn_on(switch)
        return JSONResponse(switch.as_json())

    async def turn_off(self, _request: Request) -> Response:
        """Turn every scenario off."""
        self._world.switchboard.clear()
        return Response(status_code=204)

    async def list_calls(self, _request: Request) -> Response:
        """Show the calls to `api.php`, oldest first."""
        return JSONResponse({"calls": [call.as_json() for call in self._world.calls.calls()]})

    async def clear_calls(self, _request: Request) -> Response:
        """Forget the calls."""
        self._world.calls.clear()
        return Response(status_code=204)

    async def insert_transaction(self, request: Request) -> Response:
        """Add a row; the body holds the fields that differ from a plain completed one."""
        try:
            fields = _FIELDS.validate_json(await request.body())
        except ValidationError as fault:
            return _bad_request(fault)
        return JSONResponse(self._world.ledger.insert(fields), status_code=201)

    async def amend_transaction(self, request: Request) -> Response:
        """Change fields of a row: `{"status": "R"}` refunds it."""
        try:
            fields = _FIELDS.validate_json(await request.body())
        except ValidationError as fault:
            return _bad_request(fault)
        row = self._world.ledger.amend(request.path_params["transaction_id"], fields)
        return JSONResponse({"error": "no such transaction"}, status_code=404) if row is None else JSONResponse(row)

    async def list_webhooks(self, _request: Request) -> Response:
        """Show what was sent, oldest first, with the status of each answer."""
        webhooks = self._world.webhooks
        sent = [webhook.as_json() for webhook in webhooks.sent()]
        return JSONResponse({"settings": webhooks.settings.model_dump(), "webhooks": sent})

    async def set_webhooks(self, request: Request) -> Response:
        """Say where webhooks go, and which: the body holds the settings that differ from those of the start."""
        start = WebhookSettings.of(self._world.options).model_dump()
        try:
            changes = _FIELDS.validate_json(await request.body())
            settings = WebhookSettings.model_validate({**start, **changes})
        except ValidationError as fault:
            return _bad_request(fault)
        self._world.webhooks.settings = settings
        return JSONResponse(settings.model_dump())

    async def send_webhook(self, request: Request) -> Response:
        """Send a row as it is now, or without `transaction_id` an invented one; further fields go over those of it."""
        try:
            asked = WebhookRequest.model_validate_json(await request.body())
        except ValidationError as fault:
            return _bad_request(fault)
        url = self._world.webhooks.settings.url
        if url is None:
            return JSONResponse({"error": "there is no webhook URL"}, status_code=409)
        row = {} if asked.transaction_id is None else self._world.ledger.row(asked.transaction_id)
        if row is None:
            return JSONResponse({"error": "no such transaction"}, status_code=404)
        sent = await self._world.webhooks.send(row, url, override=asked.__pydantic_extra__)
        return JSONResponse(sent.as_json())

    async def reset(self, _request: Request) -> Response:
        """Forget sessions, transactions, calls, throttling, scenarios and webhooks."""
        self._world.reset()
        return Response(status_code=204)


def _bad_request(fault: ValidationError) -> Response:
    errors: Json = json.loads(fault.json(include_url=False, include_input=False, include_context=False))
    return JSONResponse({"error": errors}, status_code=400)
