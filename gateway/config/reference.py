"""The pages that operators read about configuration, made from the code so that they cannot drift from it.

`python -m gateway.config.reference` writes them into the working directory; a test compares.
"""

import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from gateway.config.model import (
    Cache,
    Config,
    Functions,
    Payments,
    PublishableKeyClient,
    Scope,
    SecretKeyClient,
    Subscriber,
    Webhooks,
)
from gateway.config.schema import config_schema
from gateway.settings import Variable, variables
from gateway.settings.docstrings import field_docstrings

_HEAD = """\
# Configuration

<!-- Made from the code by `python -m gateway.config.reference`; do not edit. -->

The gateway reads environment variables at start, and one file, `gateway.yaml`, which it reads again when its content
changes. `quantapay-gateway config check` names everything that is wrong with both and prints no value.

## Environment variables

Variables count first, then `.env` in the working directory, then one file per variable in `/run/secrets`, named as the
variable; one line end at the end of such a file is not part of the value. An empty value counts as absent. Lists are
separated by commas. Nothing in `.env` is expanded: a `$` is a `$`. A variable that begins with `QUANTAPAY_` or
`GATEWAY_` and is not in this table is a warning at start and an error in `config check`. No two secrets may be equal.
"""

_FILE = """\
## gateway.yaml

`GATEWAY_CONFIG` says where it is. [`deploy/gateway.schema.json`](../deploy/gateway.schema.json) is its JSON Schema, and
[`gateway.example.yaml`](../gateway.example.yaml) shows all of it. Unknown keys are errors. Booleans are `true` and
`false` only, so that `off` and `no` are texts; anchors, aliases and tags are not supported.

The content is compared every two seconds, through symlinks, as Kubernetes ConfigMaps need; SIGHUP reads it at once. A
version with a fault is logged and counted, and the version before it stays in force.

A secret is never printed, and need not be in the file: where the whole value of a `secret` or `quote_secret` is
`${NAME}`, the variable of that name counts (`.env` included); where it is `${file:name}`, the file of that name in
`/run/secrets`. Nothing else is expanded, names that begin with `QUANTAPAY_` or `GATEWAY_` are refused, and an unset or
empty one is an error. Variables are read at start; files when a version of gateway.yaml is read, so send SIGHUP after
changing one.
"""

_SECTIONS: tuple[tuple[str, type[BaseModel]], ...] = (
    ("`clients`, with a secret key", SecretKeyClient),
    ("`clients`, with a publishable key", PublishableKeyClient),
    ("`subscribers`", Subscriber),
    ("`webhooks`", Webhooks),
    ("`payments`", Payments),
    ("`cache`", Cache),
    ("`functions`", Functions),
)


def render() -> str:
    """Return docs/configuration.md."""
    parts = [_HEAD, _variables_table(), _FILE, _keys_table(Config)]
    for title, model in _SECTIONS:
        parts += [f"### {title}\n", f"{_one_line(model.__doc__)}\n", _keys_table(model)]
    parts.append(f"Scopes: {', '.join(f'`{scope}`' for scope in Scope)}.\n")
    return "\n".join(parts)


def render_env_example() -> str:
    """Return .env.example: every variable with its meaning, each set to its default or left empty."""
    lines = ["# Copy to .env and fill in. Made from the code by `python -m gateway.config.reference`; do not edit.", ""]
    for variable in variables():
        lines += textwrap.wrap(_meaning(variable).replace("`", ""), 100, initial_indent="# ", subsequent_indent="# ")
        lines += [f"# Example: {variable.takes.example}", _assignment(variable), ""]
    return "\n".join(lines)


def render_schema() -> str:
    """Return deploy/gateway.schema.json."""
    return json.dumps(config_schema(), indent=2) + "\n"


PUBLISHED = {
    "docs/configuration.md": render,
    ".env.example": render_env_example,
    "deploy/gateway.schema.json": render_schema,
}
"""Every file made here, by its path in the repository."""


def publish(root: Path) -> None:
    """Write every published file below `root`."""
    for name, page in PUBLISHED.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(page(), encoding="utf-8")


def _assignment(variable: Variable) -> str:
    """Write a variable that takes part as it is: required ones empty, for they are to be filled in."""
    if variable.takes.required:
        return f"{variable.name}="
    return f"# {variable.name}={'' if variable.takes.default else variable.default}"


def _meaning(variable: Variable) -> str:
    unit = f" ({variable.takes.unit})" if variable.takes.unit else ""
    return f"{variable.description} Takes {variable.takes.what}{unit}."


def _variables_table() -> str:
    rows = (
        (f"`{variable.name}`", _default(variable), _meaning(variable), f"`{variable.takes.example}`")
        for variable in variables()
    )
    return _table(("variable", "default", "meaning", "example"), rows)


def _default(variable: Variable) -> str:
    if variable.takes.default:
        return variable.takes.default
    return f"`{variable.default}`" if variable.default else "–"


def _keys_table(model: type[BaseModel]) -> str:
    schema = model.model_json_schema()
    rows = (
        (f"`{name}`", _key_default(model, name, schema), field_docstrings(model)[name], _code(info.examples))
        for name, info in model.model_fields.items()
    )
    return _table(("key", "default", "meaning", "example"), rows)


def _key_default(model: type[BaseModel], name: str, schema: dict[str, Any]) -> str:
    info = model.model_fields[name]
    if info.is_required():
        return "required"
    if isinstance(info.default, BaseModel):
        return "see below"
    if type(info.default) in (tuple, dict):
        return f"`{json.dumps(schema['properties'][name]['default'])}`" if info.default else "none"
    return f"`{info.default}`"


def _code(examples: list[Any] | None) -> str:
    if not examples:
        return ""
    return f"`{examples[0] if isinstance(examples[0], str) else json.dumps(examples[0])}`"


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())


def _table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    publish(Path())
