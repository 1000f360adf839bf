"""`api.php`: who calls which function, checked in the order of contract §3."""

import hmac
from collections.abc import Sequence

from starlette.requests import Request

from gateway.sandbox.simulator import php
from gateway.sandbox.simulator.answers import Answer, Delivery, json_answer
from gateway.sandbox.simulator.envelope import Envelope, error
from gateway.sandbox.simulator.functions import FUNCTIONS, Account
from gateway.sandbox.simulator.scenarios import SCENARIOS
from gateway.sandbox.simulator.world import World

_FORM = "application/x-www-form-urlencoded"


class Api:
    """The endpoint over one world."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def handle(self, request: Request) -> Delivery:
        """Record the call, then answer it: throttled, misbehaving, or honestly."""
        pairs = await _form_pairs(request)
        form = php.form(pairs)
        function = php.text(form, "function") if "function" in form else None
        self._world.calls.record(method=request.method, function=function, fields=pairs)
        base_url = self._world.options.public_url or str(request.base_url)
        account = Account(
            ledger=self._world.ledger,
            webhook_secret=self._world.options.webhook_secret,
            clock=self._world.clock,
            pay_page_url=f"{base_url.rstrip('/')}/pay.php",
        )
        return Delivery(self._answer(function, account, form), self._world.clock)

    def _answer(self, function: str | None, account: Account, form: php.Form) -> Answer:
        def honest() -> Envelope:
            return self._dispatch(account, form)

        if not self._world.throttle.admits():
            return SCENARIOS[self._world.options.throttle_answer].misbehave(honest)
        switch = self._world.switchboard.take(function)
        if switch is None:
            return json_answer(honest())
        return SCENARIOS[switch.scenario].misbehave(honest).late_by(switch.seconds)

    def _dispatch(self, account: Account, form: php.Form) -> Envelope:
        """Check function, key and required parameters in PHP's order, then run the function."""
        if "function" not in form:
            return error("missing-function-name", "Missing function name")
        function = FUNCTIONS.get(php.text(form, "function"))
        if function is None:
            return error("function-not-found", "Function not found")
        key = form.get("api-key", "")
        if key in ("", "0"):
            return error("api-key-not-found", "API key not found")
        if not self._is_right(key):
            return error("invalid-api-key", "Invalid API key")
        for name in function.required:
            if name not in form:
                return error("missing-argument", f"Missing argument: {name}")
        return function.run(account, form)

    def _is_right(self, key: php.Field) -> bool:
        expected = self._world.options.api_key.get_secret_value().encode()
        given = key.encode("utf-8", "surrogateescape") if isinstance(key, str) else b""
        return hmac.compare_digest(expected, given)


async def _form_pairs(request: Request) -> Sequence[tuple[str, str]]:
    """Read the form; PHP knows none when the method is not POST or the body is of another type."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if request.method != "POST" or media_type != _FORM:
        return []
    return php.form_pairs(await request.body())
