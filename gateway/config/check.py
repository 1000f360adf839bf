"""Settings and file checked together, for `config check`: every fault of both, without stopping at the first."""

from collections.abc import Mapping
from pathlib import Path

from gateway.config.load import config_path, load_config
from gateway.settings import ConfigFault, ConfigurationError, Mode, read_settings, read_variables
from gateway.settings.load import ENV_FILE, SECRETS_DIRECTORY


def check(
    *,
    environ: Mapping[str, str] | None = None,
    env_file: Path | None = ENV_FILE,
    secrets_dir: Path | None = SECRETS_DIRECTORY,
    directory: Path = Path(),
    mode: Mode = "serve",
) -> list[ConfigFault]:
    """Return everything that is wrong; unknown variables count as wrong here. Nothing in it repeats a value."""
    reading = read_settings(environ=environ, env_file=env_file, secrets_dir=secrets_dir, mode=mode)
    faults = [*reading.faults, *reading.unknown]
    try:
        load_config(
            config_path(reading.settings, directory=directory),
            environ=read_variables(environ=environ, env_file=env_file),
            secrets_dir=secrets_dir,
            settings_secrets=reading.settings.secrets(),
        )
    except ConfigurationError as error:
        faults += error.faults
    return faults
