"""gateway.yaml: clients, subscribers, functions. Loaded, validated, re-read when it changes."""

from gateway.config.check import check
from gateway.config.load import config_path, load_config
from gateway.config.model import (
    PUBLISHABLE_SCOPES,
    Cache,
    Client,
    Config,
    EventName,
    Functions,
    Payments,
    PublishableKeyClient,
    Scope,
    SecretKeyClient,
    Subscriber,
    Webhooks,
)
from gateway.config.schema import config_schema
from gateway.config.watch import ConfigFile, ConfigSource, FixedConfig
from gateway.settings import ConfigFault, ConfigurationError

__all__ = [
    "PUBLISHABLE_SCOPES",
    "Cache",
    "Client",
    "Config",
    "ConfigFault",
    "ConfigFile",
    "ConfigSource",
    "ConfigurationError",
    "EventName",
    "FixedConfig",
    "Functions",
    "Payments",
    "PublishableKeyClient",
    "Scope",
    "SecretKeyClient",
    "Subscriber",
    "Webhooks",
    "check",
    "config_path",
    "config_schema",
    "load_config",
]
