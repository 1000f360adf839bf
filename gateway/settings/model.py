"""Every variable of the gateway, declared once: type, default, meaning, unit and an example (interface §2.1)."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, Self

import platformdirs
from pydantic import AfterValidator, AliasGenerator, BeforeValidator, Field, PrivateAttr, SecretStr
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from gateway.quota import QUOTA_SHAPE, Quota
from gateway.settings import values
from gateway.settings.docstrings import field_docstrings
from gateway.settings.faults import ConfigFault

EMBEDDED = "embedded"
"""The GATEWAY_REDIS_URL that asks for a Valkey of the gateway's own."""

REDIS_FORMS = (
    "redis://host, rediss://host (TLS), unix:///path, redis+cluster://host1,host2,"
    f" redis+sentinel://host1,host2/service/0 or {EMBEDDED}"
)


@dataclass(frozen=True, slots=True)
class Takes:
    """What a variable takes, in words for people, and an example of it."""

    what: str
    example: str
    unit: str = ""
    default: str = ""
    """The default in words, where the value itself would not tell (or holds a path of one machine)."""
    required: bool = False
    """Whether `serve` cannot run without it, as a rule."""


def variable_name(field: str) -> str:
    """Name the variable of a field: `quantapay_url` is QUANTAPAY_URL, every other field loses its GATEWAY_."""
    return field.upper() if field.startswith("quantapay_") else f"GATEWAY_{field.upper()}"


def _state_directory() -> Path:
    return Path(platformdirs.user_state_dir("quantapay-gateway", appauthor=False))


_API_KEY = Takes("a key of printable ASCII characters, without blanks around it", "your-api-key")
_WEBHOOK_SECRET = Takes("a secret without control characters and blanks around it", "your-webhook-secret-key")
_HOST = Takes("an IP address or a host name, without scheme and port", "0.0.0.0")  # noqa: S104 # nosec B104
_PORT = "a port number from 1 to 65535, or 0 for any free port"
_COUNT = Takes("a whole number from 1 to 1000", "2")

ApiKey = Annotated[SecretStr, AfterValidator(values.ascii_secret)]
WebhookSecret = Annotated[SecretStr, AfterValidator(values.secret_text)]
RedisUrl = Annotated[SecretStr, AfterValidator(values.redis_url)]
Host = Annotated[str, AfterValidator(values.host)]
Port = Annotated[int, BeforeValidator(values.port), Field(ge=0, le=65535)]
Count = Annotated[int, Field(ge=1, le=1000)]
Seconds = Annotated[float, Field(allow_inf_nan=False)]
Network = Annotated[values.Network, BeforeValidator(values.network)]
Budget = Annotated[Quota, BeforeValidator(values.quota)]
Origin = Annotated[str, AfterValidator(values.origin)]
Level = Literal["debug", "info", "warning", "error"]
Format = Literal["json", "console"]


class Settings(BaseSettings):
    """The settings of one process; frozen, and secrets are `SecretStr`.

    Made by `load_settings`. The constructor takes values by field name or by variable name and reads nothing
    around it, so a test gets what it gives.
    """

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=AliasGenerator(validation_alias=variable_name),
        validate_by_name=True,
        validate_by_alias=True,
        hide_input_in_errors=True,
    )

    quantapay_api_key: Annotated[ApiKey | None, replace(_API_KEY, required=True)] = None
    """The merchant's API key. Required by `serve`."""

    quantapay_api_key_next: Annotated[ApiKey | None, replace(_API_KEY, example="your-new-api-key")] = None
    """During a rotation: the key to try when QuantaPay refuses the first."""

    quantapay_webhook_secret: Annotated[WebhookSecret | None, replace(_WEBHOOK_SECRET, required=True)] = None
    """Signs checkout sessions and verifies webhooks. Required by `serve` unless `QUANTAPAY_UNSIGNED=true`."""

    quantapay_webhook_secret_next: Annotated[
        WebhookSecret | None, replace(_WEBHOOK_SECRET, example="your-new-webhook-secret-key")
    ] = None
    """During a rotation: the secret to try when QuantaPay refuses the first; webhooks accept either."""

    quantapay_unsigned: Annotated[bool, Takes("true or false", "true")] = False
    """Send checkout sessions unsigned when there is no webhook secret."""

    quantapay_url: Annotated[
        str,
        AfterValidator(values.url_https_or_loopback),
        Takes(
            "an https URL (plain http only to loopback), without login and fragment",
            "http://127.0.0.1:8100/api.php",
        ),
    ] = "https://cloud.quantapay.app/api.php"
    """QuantaPay's endpoint."""

    quantapay_payment_hosts: Annotated[
        tuple[Host, ...],
        BeforeValidator(values.comma_separated),
        Field(min_length=1),
        Takes("exact host names, without scheme, port and wildcard", "cloud.quantapay.app,pay.shop.example"),
    ] = ("cloud.quantapay.app",)
    """The hosts that a `payment_url` from QuantaPay may have."""

    quantapay_timeout: Annotated[
        Seconds, Field(ge=0.1, le=300), Takes("a number from 0.1 to 300", "10", unit="seconds")
    ] = 10.0
    """One deadline for waiting, calling and retrying."""

    quantapay_budget: Annotated[Quota, BeforeValidator(values.quota), Takes(QUOTA_SHAPE, "90/minute")] = Quota(90, 60)
    """The most calls to QuantaPay in any window, over all replicas together; creates can use all of it, reads 80 %."""

    host: Annotated[Host, _HOST] = "127.0.0.1"
    """Where the public listener listens."""

    port: Annotated[Port, Takes(_PORT, "8080")] = 8080
    """The port of the public listener."""

    ops_host: Annotated[Host, _HOST] = "127.0.0.1"
    """Where the operations listener (metrics, status) listens."""

    ops_port: Annotated[Port, Takes(_PORT, "9464")] = 9464
    """The port of the operations listener; one for all workers."""

    workers: Annotated[Count, _COUNT] = 1
    """Processes to run here."""

    replicas: Annotated[Count, _COUNT] = 1
    """Replicas to assume for sharing limits while Redis cannot say."""

    redis_url: Annotated[RedisUrl | None, Takes(REDIS_FORMS, "redis://redis:6379/0", required=True)] = None
    """Where Redis or Valkey is. Required by `serve`. `embedded` runs a Valkey of its own, for one replica only."""

    config: Annotated[
        Path | None,
        Takes("the path of a file", "/etc/quantapay-gateway/gateway.yaml", default="gateway.yaml if present"),
    ] = None
    """The configuration file: clients, subscribers and the rest of what follows below."""

    data_dir: Annotated[
        Path,
        Takes("the path of a directory", "/var/lib/quantapay-gateway", default="the platform's state directory"),
    ] = Field(default_factory=_state_directory)
    """Where the embedded Valkey keeps its data."""

    trusted_proxies: Annotated[
        tuple[Network, ...],
        BeforeValidator(values.comma_separated),
        Takes("networks, with zeros after the prefix", "10.0.0.0/8,2001:db8::/32", default="none"),
    ] = ()
    """Proxies whose `X-Forwarded-For` is believed: the client is the rightmost address outside them."""

    public_url: Annotated[
        Origin | None, Takes("an http or https origin, without trailing slash", "https://pay.shop.example")
    ] = None
    """The address that callers use. Without it links in answers are relative."""

    drain_seconds: Annotated[Seconds, Field(ge=0, le=600), Takes("a number from 0 to 600", "5", unit="seconds")] = 5.0
    """From SIGTERM until no more connections are accepted."""

    docs: Annotated[bool, Takes("on or off", "off", default="on")] = True
    """Whether `/docs` and `/openapi.json` are served."""

    log_level: Annotated[Level, Takes("debug, info, warning or error", "debug")] = "info"
    """The least severe lines to log."""

    log_format: Annotated[
        Format | None,
        Takes("json or console", "json", default="json (console on a terminal)"),
    ] = None
    """How log lines look."""

    _warnings: tuple[ConfigFault, ...] = PrivateAttr(default=())

    @property
    def warnings(self) -> tuple[ConfigFault, ...]:
        """What does not stop a start but is surely not meant: variables with our prefixes that we do not know."""
        return self._warnings

    def with_warnings(self, faults: tuple[ConfigFault, ...]) -> Self:
        """Return these settings carrying `faults` as warnings."""
        copy = self.model_copy()
        copy._warnings = faults  # noqa: SLF001
        return copy

    def secrets(self) -> dict[str, SecretStr]:
        """Return the secrets that are set, by variable name; no two secrets of a gateway may be equal."""
        found = {
            "QUANTAPAY_API_KEY": self.quantapay_api_key,
            "QUANTAPAY_API_KEY_NEXT": self.quantapay_api_key_next,
            "QUANTAPAY_WEBHOOK_SECRET": self.quantapay_webhook_secret,
            "QUANTAPAY_WEBHOOK_SECRET_NEXT": self.quantapay_webhook_secret_next,
        }
        return {name: secret for name, secret in found.items() if secret is not None}

    @property
    def webhook_secrets(self) -> tuple[SecretStr, ...]:
        """Return the webhook secrets that are good now: two while they are rotated."""
        found = (self.quantapay_webhook_secret, self.quantapay_webhook_secret_next)
        return tuple(secret for secret in found if secret is not None)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read only what the constructor is given; `gateway.settings.load` says where values come from."""
        return (init_settings,)


@dataclass(frozen=True, slots=True)
class Variable:
    """One variable as the operator sees it."""

    field: str
    """The field of `Settings` that it becomes."""
    name: str
    takes: Takes
    default: str
    """The default as a variable would write it, or words; empty if there is none."""
    secret: bool

    @property
    def description(self) -> str:
        """What it is for: the text under its field."""
        return field_docstrings(Settings)[self.field]


def variables() -> Iterator[Variable]:
    """Yield every variable, in the order of the documentation."""
    for field, info in Settings.model_fields.items():
        takes = next(entry for entry in info.metadata if isinstance(entry, Takes))
        yield Variable(
            field=field,
            name=variable_name(field),
            takes=takes,
            default=takes.default or _written(info.default),
            secret="SecretStr" in str(info.annotation),
        )


def _written(default: object) -> str:
    """Write a default the way a variable takes it."""
    if default is None:
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, float):
        return f"{default:g}"
    return ",".join(default) if type(default) is tuple else str(default)
