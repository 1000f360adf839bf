"""Where settings come from: variables, then `.env`, then one file per variable in a secrets directory.

The readers are our own, because those of pydantic-settings warn of an absent directory, expand variables in
`.env`, strip blanks from secrets, and repeat a bad value in their errors.
"""

import difflib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Literal

from dotenv.parser import parse_stream
from pydantic import ValidationError

from gateway.settings.faults import ConfigFault, ConfigurationError, own_words
from gateway.settings.model import EMBEDDED, Settings, Variable, variables

Mode = Literal["serve", "sandbox"]
"""What the settings are for: `serve` requires what it cannot run without, `sandbox` (and a small tool) nothing."""

ENV_FILE = Path(".env")
SECRETS_DIRECTORY = Path("/run/secrets")
MOST_SECRET_BYTES = 65_536

PREFIXES = ("QUANTAPAY_", "GATEWAY_")
_SERVICE_LINK = re.compile(r".+_(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)")


@dataclass(frozen=True, slots=True)
class Reading:
    """All that could be read, with everything that is wrong."""

    settings: Settings
    """With the default in place of each bad value, so that what depends on settings can be checked too."""
    faults: tuple[ConfigFault, ...]
    unknown: tuple[ConfigFault, ...]
    """Variables with our prefixes that do not exist: a warning at start, a fault to `config check`."""


def load_settings(
    *,
    environ: Mapping[str, str] | None = None,
    env_file: Path | None = ENV_FILE,
    secrets_dir: Path | None = SECRETS_DIRECTORY,
    mode: Mode = "serve",
) -> Settings:
    """Return the settings of this process, with unknown variables as their `warnings`.

    Raises `ConfigurationError`, which names every variable that is wrong or missing.
    """
    reading = read_settings(environ=environ, env_file=env_file, secrets_dir=secrets_dir, mode=mode)
    if reading.faults:
        raise ConfigurationError(reading.faults)
    return reading.settings.with_warnings(reading.unknown)


def read_settings(
    *,
    environ: Mapping[str, str] | None = None,
    env_file: Path | None = ENV_FILE,
    secrets_dir: Path | None = SECRETS_DIRECTORY,
    mode: Mode = "serve",
) -> Reading:
    """Read the settings as far as they can be read; raises nothing."""
    faults: list[ConfigFault] = []
    known = {variable.name: variable for variable in variables()}
    outside = _read_secret_files(secrets_dir, faults) | _read_variables(environ, env_file, faults)
    given = {name: outside[name] for name in known if name in outside}

    wrong: dict[str, str | None] = {}
    try:
        settings = Settings(**given)  # type: ignore[arg-type]  # the texts are what it validates
    except ValidationError as error:
        for detail in error.errors(include_url=False, include_input=False):
            wrong.setdefault(str(detail["loc"][0]), own_words(detail)[0])
        settings = Settings(**{name: text for name, text in given.items() if name not in wrong})  # type: ignore[arg-type]
    faults.extend(_bad_value(known[name], cause) for name, cause in wrong.items())
    faults.extend(_missing(known, given.keys(), settings, mode))
    faults.extend(_contradictions(settings))
    return Reading(settings, tuple(faults), tuple(_unknown(outside, known)))


def read_variables(*, environ: Mapping[str, str] | None = None, env_file: Path | None = ENV_FILE) -> dict[str, str]:
    """Return every variable that is set, those of `.env` included: what `${NAME}` in gateway.yaml may refer to.

    An empty value counts as absent. An `.env` that cannot be read counts as empty: `load_settings` reports it.
    """
    return _read_variables(environ, env_file, [])


def _read_variables(
    environ: Mapping[str, str] | None, env_file: Path | None, faults: list[ConfigFault]
) -> dict[str, str]:
    return _read_env_file(env_file, faults) | _present(os.environ if environ is None else environ)


def _present(texts: Mapping[str, str]) -> dict[str, str]:
    return {name: text for name, text in texts.items() if text}


def _read_env_file(path: Path | None, faults: list[ConfigFault]) -> dict[str, str]:
    """Read `NAME=value` lines; nothing in them is expanded, so a `$` in a secret is a `$`."""
    if path is None:
        return {}
    try:
        with path.open(encoding="utf-8-sig") as stream:
            bindings = list(parse_stream(stream))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError):
        faults.append(ConfigFault(".env", "the file cannot be read as UTF-8 text"))
        return {}
    faults.extend(
        ConfigFault(".env", "takes one variable a line", "NAME=value", binding.original.line)
        for binding in bindings
        if binding.error
    )
    return {binding.key: binding.value for binding in bindings if binding.key and binding.value}


def _read_secret_files(directory: Path | None, faults: list[ConfigFault]) -> dict[str, str]:
    """Read the files whose names begin with our prefixes; one line end at the end is not part of the value."""
    try:
        paths = [] if directory is None else sorted(directory.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError:
        faults.append(ConfigFault("secrets directory", "cannot be listed by the user the gateway runs as"))
        return {}
    texts = {}
    for path in paths:
        if not path.name.startswith(PREFIXES):
            continue
        text = read_secret_file(path)
        if text is None:
            faults.append(ConfigFault(_name(path.name), "its secret file cannot be read as UTF-8 text"))
        else:
            texts[path.name] = text
    return _present(texts)


def read_secret_file(path: Path) -> str | None:
    """Return the text of a secret's file without one line end at its end; None if it is no readable UTF-8 text."""
    try:
        with path.open("rb") as stream:
            text = stream.read(MOST_SECRET_BYTES).decode()
    except (OSError, UnicodeDecodeError):
        return None
    return text.removesuffix("\n").removesuffix("\r")


def _bad_value(variable: Variable, cause: str | None) -> ConfigFault:
    unit = f" ({variable.takes.unit})" if variable.takes.unit else ""
    takes = f"takes {variable.takes.what}{unit}"
    tells_more = cause is not None and variable.takes.what not in cause
    return ConfigFault(variable.name, f"{cause}; it {takes}" if tells_more else takes, variable.takes.example)


def _missing(
    known: Mapping[str, Variable], given: Iterable[str], settings: Settings, mode: Mode
) -> Iterator[ConfigFault]:
    """Yield what is required but absent; a value that is there but bad is not missing."""
    there = set(given)
    required: list[tuple[str, str]] = []
    if mode == "serve":
        required = [("QUANTAPAY_API_KEY", "required"), ("GATEWAY_REDIS_URL", "required")]
        if not settings.quantapay_unsigned:
            required.append(("QUANTAPAY_WEBHOOK_SECRET", "required, unless QUANTAPAY_UNSIGNED is true"))
    for name in ("QUANTAPAY_API_KEY", "QUANTAPAY_WEBHOOK_SECRET"):
        if f"{name}_NEXT" in there and all(name != other for other, _ in required):
            required.append((name, f"required when {name}_NEXT is set"))
    for name, why in required:
        if name not in there:
            yield ConfigFault(name, f"{why}; takes {known[name].takes.what}", known[name].takes.example)


def _contradictions(settings: Settings) -> Iterator[ConfigFault]:
    """Yield values that are right alone and wrong together."""
    for (name, secret), (other, same) in combinations(settings.secrets().items(), 2):
        if secret == same:
            yield ConfigFault(other, f"is the same secret as {name}; every secret must differ")
    embedded = settings.redis_url is not None and settings.redis_url.get_secret_value() == EMBEDDED
    if embedded and settings.replicas > 1:
        yield ConfigFault("GATEWAY_REDIS_URL", "embedded serves one replica, but GATEWAY_REPLICAS is more")
    if settings.port == settings.ops_port != 0 and settings.host == settings.ops_host:
        yield ConfigFault("GATEWAY_OPS_PORT", "must differ from GATEWAY_PORT on the same host", "9464")


def _unknown(outside: Iterable[str], known: Iterable[str]) -> Iterator[ConfigFault]:
    """Yield the variables that carry our prefixes and that we do not know."""
    names = set(known)
    for name in sorted(outside):
        if not name.startswith(PREFIXES) or name in names:
            continue
        if _SERVICE_LINK.fullmatch(name):
            hint = "it looks like a service link of Kubernetes, set enableServiceLinks: false in the pod"
        else:
            close = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {close[0]}?" if close else "see docs/configuration.md for those that exist"
        yield ConfigFault(_name(name), f"is not a variable of the gateway; {hint}")


def _name(text: str) -> str:
    """Return a variable's name, unless it is so odd that printing it could harm a terminal."""
    return text if text.isascii() and text.isidentifier() else f"{text.partition('_')[0]}_…"
