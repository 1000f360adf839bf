"""The types of single values in gateway.yaml, each with its check, its JSON Schema and words for what it takes."""

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    SecretStr,
    Strict,
    WithJsonSchema,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from gateway.config.addresses import is_forbidden_host, is_near
from gateway.config.keys import PUBLISHABLE_KEY, SHA256_HEX
from gateway.quota import Quota
from gateway.settings import values
from gateway.settings.faults import refusal

T = TypeVar("T")

LEAST_QUOTE_SECRET = 32
"""Characters."""
WEBHOOK_SECRET_BYTES = range(24, 65)
"""Random bytes that a subscriber's secret stands for (Standard Webhooks: 24 to 64)."""

_CURRENCY = re.compile(r"[A-Za-z0-9_-]{2,20}")
ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_FUNCTION = re.compile(r"[a-z0-9-]{1,64}")
_CREATE = "create-checkout-session"


@dataclass(frozen=True, slots=True)
class Shaped:
    """In `Annotated[str, …]`: take texts that match in full; the same pattern goes into the JSON Schema."""

    pattern: re.Pattern[str]
    takes: str

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {**handler(schema), "pattern": f"^{self.pattern.pattern}$"}

    def _check(self, text: str) -> str:
        if not self.pattern.fullmatch(text):
            raise refusal(f"expected {self.takes}")
        return text


@dataclass(frozen=True, slots=True)
class OneOrTwo:
    """In `Annotated[tuple[T, ...], …]`: take one `T` or a list of one or two, as in a rotation."""

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self._listed, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        listed = handler(schema)
        return {"anyOf": [listed["items"], {**listed, "minItems": 1, "maxItems": 2}]}

    @staticmethod
    def _listed(value: object) -> object:
        items = [value] if isinstance(value, (str, SecretStr)) else value
        if isinstance(items, (list, tuple)) and len(items) not in {1, 2}:
            raise refusal("expected one, or a list of one or two")
        return items


def distinct(items: tuple[T, ...]) -> tuple[T, ...]:
    """Refuse a list that holds something twice."""
    if len(set(items)) != len(items):
        raise refusal("an item is here twice")
    return items


def decimal(value: object) -> object:
    """Refuse what pydantic would make a number of: a boolean, and a binary float with its noise."""
    if isinstance(value, (bool, float)):
        raise refusal("expected a number, such as 0.5")
    return value


def _origin(text: str) -> str:
    if text == "null" or "*" in text:
        raise refusal("an origin is exact, without wildcard")
    parts = values.split_url(text)
    values.origin(values.url_https_or_loopback(text))
    if text != text.lower():
        raise refusal("an origin is in lower case, as browsers send it")
    if parts.port == {"https": 443, "http": 80}[parts.scheme] or parts.netloc.endswith(":"):
        raise refusal("browsers leave out the default port of an origin")
    return text


def _subscriber_url(text: str) -> str:
    parts = values.split_url(text)
    hostname = parts.hostname or ""
    if is_forbidden_host(hostname):
        raise refusal("this host is link-local, a metadata service or no proper address; events are never sent there")
    if parts.scheme == "http" and not is_near(hostname):
        raise refusal("plain http is allowed to loopback and private hosts only, use https")
    return text


def _quote_secret(secret: SecretStr) -> SecretStr:
    if len(values.secret_text(secret).get_secret_value()) < LEAST_QUOTE_SECRET:
        raise refusal(f"expected a secret of at least {LEAST_QUOTE_SECRET} characters")
    return secret


def _webhook_secret(secret: SecretStr) -> SecretStr:
    prefix, _, encoded = secret.get_secret_value().partition("whsec_")
    decoded = b""
    try:
        decoded = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        prefix = "?"
    if prefix or len(decoded) not in WEBHOOK_SECRET_BYTES:
        raise refusal("expected whsec_ and the base64 of 24 to 64 random bytes")
    return secret


def _allowed_function(name: str) -> str:
    if name == _CREATE:
        raise refusal(f"{_CREATE} can never be allowed here; it has its own route, POST /checkout-sessions")
    return name


def _secret_schema(literal: dict[str, Any]) -> WithJsonSchema:
    reference = r"^\$\{(file:)?[A-Za-z0-9_][A-Za-z0-9_.-]*\}$"
    return WithJsonSchema({"type": "string", "anyOf": [{"pattern": reference}, literal]})


_QUOTA_SCHEMA = {"type": "string", "pattern": r"^[1-9][0-9]{0,8}/(second|minute|hour)$"}
_NETWORK_SCHEMA = {"type": "string", "pattern": r"^[0-9a-fA-F:.]+(/[0-9]{1,3})?$"}
_ORIGIN_SCHEMA = {"type": "string", "pattern": r"^https?://[^/*@?#A-Z\s]+$"}
_URL_SCHEMA = {"type": "string", "pattern": r"^https?://[^@#\s]+$"}

Id = Annotated[str, Shaped(ID, "1 to 63 lower-case letters, digits and hyphens, not beginning with a hyphen")]
KeyHash = Annotated[str, Shaped(SHA256_HEX, "a SHA-256 as 64 lower-case hex digits, as `keys new` prints it")]
PublishableKey = Annotated[str, Shaped(PUBLISHABLE_KEY, "qpk_ and 43 letters, digits, - or _, as `keys new` prints it")]
Origin = Annotated[str, AfterValidator(_origin), WithJsonSchema(_ORIGIN_SCHEMA)]
Currency = Annotated[str, Shaped(_CURRENCY, "a code of 2 to 20 letters, digits, - or _"), AfterValidator(str.lower)]
FunctionName = Annotated[str, Shaped(_FUNCTION, "a function name of lower-case letters, digits and hyphens")]
AllowedFunction = Annotated[FunctionName, AfterValidator(_allowed_function)]
Rate = Annotated[Quota, BeforeValidator(values.quota), WithJsonSchema(_QUOTA_SCHEMA)]
Network = Annotated[values.Network, BeforeValidator(values.network), WithJsonSchema(_NETWORK_SCHEMA)]
SubscriberUrl = Annotated[str, AfterValidator(_subscriber_url), WithJsonSchema(_URL_SCHEMA)]
QuoteSecret = Annotated[SecretStr, AfterValidator(_quote_secret), _secret_schema({"minLength": LEAST_QUOTE_SECRET})]
WebhookSecret = Annotated[
    SecretStr, AfterValidator(_webhook_secret), _secret_schema({"pattern": "^whsec_[A-Za-z0-9+/]{32,88}={0,2}$"})
]
Number = Annotated[int, Strict()]
"""Never a boolean or a text, which pydantic would otherwise turn into a number."""
Seconds = Annotated[Number, Field(ge=0, le=86_400)]
