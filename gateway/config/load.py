"""gateway.yaml from bytes to a `Config`: parse, expand secrets, validate, compare; all faults at once."""

from collections.abc import Mapping
from pathlib import Path

from pydantic import SecretStr, ValidationError

from gateway.config.document import MOST_BYTES, WHOLE_FILE, parse
from gateway.config.expand import expand
from gateway.config.explain import explain
from gateway.config.model import Config
from gateway.config.unique import duplicates
from gateway.settings import ConfigFault, ConfigurationError, Settings

DEFAULT_FILE = Path("gateway.yaml")


def config_path(settings: Settings, *, directory: Path = Path()) -> Path | None:
    """Return the file that GATEWAY_CONFIG names, else `gateway.yaml` if it is in `directory`, else None."""
    if settings.config is not None:
        return settings.config
    found = directory / DEFAULT_FILE
    return found if found.exists() else None


def load_config(
    path: Path | None,
    *,
    environ: Mapping[str, str],
    secrets_dir: Path | None,
    settings_secrets: Mapping[str, SecretStr],
) -> Config:
    """Read the configuration file; without one (`path` is None) all is default and there are no clients.

    `environ` holds what `${NAME}` may refer to; `secrets_dir` the files of `${file:name}`; `settings_secrets` the
    secrets that none in the file may equal (`Settings.secrets()`).

    Raises `ConfigurationError`, which names every fault.
    """
    if path is None:
        return Config()
    raw = read_file(path)
    return parse_config(raw, environ=environ, secrets_dir=secrets_dir, settings_secrets=settings_secrets)


def read_file(path: Path) -> bytes:
    """Return the file's bytes, one more than `parse` takes at most; raise `ConfigurationError` if it cannot."""
    raw = None
    try:
        with path.open("rb") as stream:
            raw = stream.read(MOST_BYTES + 1)
    except OSError as error:
        reason = "there is no such file" if isinstance(error, FileNotFoundError) else "the file cannot be read"
    if raw is None:
        raise ConfigurationError([ConfigFault(WHOLE_FILE, f"{reason}; GATEWAY_CONFIG says where it is")])
    return raw


def parse_config(
    raw: bytes, *, environ: Mapping[str, str], secrets_dir: Path | None, settings_secrets: Mapping[str, SecretStr]
) -> Config:
    """Make a `Config` of a file's bytes; see `load_config`."""
    document = parse(raw)
    faults = list(document.faults)
    faults += expand(document, environ=environ, secrets_dir=secrets_dir)
    faults += duplicates(document, settings_secrets=settings_secrets)
    config = None
    try:
        config = Config.model_validate({} if document.data is None else document.data)
    except ValidationError as error:
        named = {fault.where for fault in faults}
        faults += [fault for fault in explain(error, document) if fault.where not in named]
    if config is None or faults:
        raise ConfigurationError(sorted(faults, key=lambda fault: fault.line or 0))
    return config
