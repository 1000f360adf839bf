"""The envelopes that `api.php` answers with (contract §2)."""

from collections.abc import Mapping
from typing import TypeAlias

from gateway.sandbox.simulator.php import Json

Envelope: TypeAlias = Mapping[str, Json]

PRODUCT_ERROR = "QuantaPay error [simulated]: "
"""How a business error begins that comes as plain text under `success: true`; the name in brackets is made up."""


def success(response: Json) -> Envelope:
    """Wrap a result."""
    return {"success": True, "response": response}


def error(code: str, message: str) -> Envelope:
    """Refuse in the documented way."""
    return {"success": False, "error_code": code, "message": message}


def error_in_response(reason: str) -> Envelope:
    """Refuse in Boxcoin's way for business errors: `success: true` with a text for people."""
    return success(PRODUCT_ERROR + reason)


def bare_failure(reason: str) -> Envelope:
    """Refuse as the inner dispatcher does, with neither code nor message."""
    return {"success": False, "response": reason}
