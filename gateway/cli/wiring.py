"""What `serve`, its workers and `config check --probe` share: a whole gateway, which takes a second to import."""

from pydantic import SecretStr

from gateway.app import Gateway
from gateway.cli.common import refuse
from gateway.settings import ConfigurationError, Settings, read_variables
from gateway.settings.load import SECRETS_DIRECTORY
from gateway.store.client import connect
from gateway.telemetry.tracing import open_tracer


def gateway_or_refuse(settings: Settings, url: SecretStr) -> Gateway:
    """Return a gateway on the Redis at `url`, or end with 2 and every fault of gateway.yaml."""
    try:
        return Gateway(
            settings,
            redis=connect(url),
            environ=read_variables(),
            secrets_dir=SECRETS_DIRECTORY,
            tracer=open_tracer(read_variables(env_file=None)),  # OpenTelemetry reads its variables itself, and no file
        )
    except ConfigurationError as error:
        refuse(error.faults)
