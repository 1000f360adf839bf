"""Checkout sessions: start a payment, look at it, watch it turn paid (interface §3.5)."""

from fastapi import APIRouter
from pydantic import BaseModel

from gateway.routes.checkout_sessions import create, retrieve, watch
from gateway.routes.checkout_sessions.models import CheckoutSessionRequest, QuotedCheckoutSessionRequest

router = APIRouter()
for part in (create, retrieve, watch):
    router.routes.extend(part.router.routes)

BODIES: list[type[BaseModel]] = [CheckoutSessionRequest, QuotedCheckoutSessionRequest]
"""The models that `create` reads by `json_body`."""
