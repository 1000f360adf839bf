"""YAML text to plain values, with the line of each, and without YAML 1.1's surprises.

`off`, `no` and `yes` are texts, as in YAML 1.2; only `true` and `false` are booleans. Numbers are plain decimals,
read exactly: `0.1` is a `Decimal`; `010`, `1:30` and dates are texts. Anchors, aliases, tags, duplicate keys and a
second document are refused, and so is a file too large or too deeply nested to be a configuration.
"""

import re
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, TypeAlias

import yaml

from gateway.config.paths import Path, name_of, text_of
from gateway.settings import ConfigFault, ConfigurationError

Plain: TypeAlias = Any
"""What a YAML file holds before it is validated. As a recursive type it would need a cast at every step down."""

MOST_BYTES = 4 * 1024 * 1024
MOST_LEVELS = 16

WHOLE_FILE = "gateway.yaml"
"""Where a fault is that concerns the file and no value in it."""

_NO_COLON = "could not find expected ':'"
_SYNTAX_HINTS = {
    "mapping values are not allowed here": "a colon is in the wrong place, or a line is indented too far",
    _NO_COLON: "a key without a colon, or a text that needs quotes",
    "found character '\\t' that cannot start any token": "indent with spaces, not with tabs",
}


@dataclass(frozen=True, slots=True)
class Document:
    """The values of a file, where each stands, and what is wrong with the text itself."""

    data: Plain
    """Mappings, lists, texts, whole numbers, `Decimal`, booleans and None."""
    lines: dict[Path, int]
    """The line, from 1, of every key and item."""
    faults: list[ConfigFault] = field(default_factory=list)

    def line_of(self, path: Path) -> int | None:
        """Return the line of a place, or of the nearest place around it."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path)


class _Refused(yaml.MarkedYAMLError):
    """Something that YAML allows and we do not; its problem is our own words."""


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the plain scalars of YAML 1.2 and without aliases and tags."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 - how PyYAML keeps a loader's own resolvers

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:  # noqa: ANN401 - PyYAML's own signature
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]  # PyYAML has no types here
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise _Refused(problem="anchors and aliases are not supported", problem_mark=event.start_mark)
        if event.tag is not None and event.tag != "!":
            raise _Refused(problem="tags (!…) are not supported", problem_mark=event.start_mark)
        self._depth += 1
        if self._depth > MOST_LEVELS:
            raise _Refused(problem=f"nested more than {MOST_LEVELS} levels deep", problem_mark=event.start_mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


_BOOLEAN, _NULL, _INTEGER, _DECIMAL = (f"tag:yaml.org,2002:{name}" for name in ("bool", "null", "int", "float"))
for _tag, _pattern, _first in (
    (_BOOLEAN, r"true|True|TRUE|false|False|FALSE", "tTfF"),
    (_NULL, r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    (_INTEGER, r"[-+]?(0|[1-9][0-9]{0,17})", "-+0123456789"),
    (_DECIMAL, r"[-+]?[0-9]{1,18}\.[0-9]{1,18}", "-+0123456789"),
):
    _Loader.add_implicit_resolver(_tag, re.compile(rf"({_pattern})\Z"), list(_first))


def parse(raw: bytes) -> Document:
    """Read one YAML document.

    Raises `ConfigurationError` if it is no readable YAML; duplicate keys and keys that are not texts are among
    the faults of the `Document`, so that the rest can still be checked.
    """
    if len(raw) > MOST_BYTES:
        raise ConfigurationError([ConfigFault(WHOLE_FILE, f"takes at most {MOST_BYTES} bytes (4 MiB)")])
    text, fault = None, ConfigFault(WHOLE_FILE, "takes text in UTF-8")
    try:
        text = raw.decode("utf-8-sig")
        node = _compose(text)
    except UnicodeDecodeError:
        pass
    except yaml.YAMLError as error:
        fault = _syntax_fault(error, text or "")
    else:
        noted = Document(None, {})
        return replace(noted, data=_value(node, (), noted))
    raise ConfigurationError([fault])


def _compose(text: str) -> yaml.Node | None:
    loader = _Loader(text)
    try:
        return loader.get_single_node()
    finally:
        loader.dispose()


def _syntax_fault(error: yaml.YAMLError, text: str) -> ConfigFault:
    """Say where the YAML breaks and, from a fixed list, why: PyYAML's own texts repeat parts of the file."""
    line = None
    problem = "this is not valid YAML"
    if isinstance(error, yaml.reader.ReaderError):
        line = text[: error.position].count("\n") + 1
        problem = "control characters are not allowed"
    elif isinstance(error, yaml.MarkedYAMLError):
        mark = error.context_mark if error.problem == _NO_COLON else error.problem_mark
        line = None if mark is None else mark.line + 1
        if isinstance(error, _Refused):
            problem = str(error.problem)
        elif error.problem == "but found another document":
            problem = "takes one YAML document; remove what follows the second ---"
        elif error.problem in _SYNTAX_HINTS:
            problem += f": {_SYNTAX_HINTS[error.problem]}"
    return ConfigFault(WHOLE_FILE, problem, line=line)


def _value(node: yaml.Node | None, path: Path, document: Document) -> Plain:
    """Turn a node into a value, noting lines and faults in `document` on the way."""
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, path, document)
    if isinstance(node, yaml.SequenceNode):
        items = []
        for index, item in enumerate(node.value):
            document.lines[*path, index] = item.start_mark.line + 1
            items.append(_value(item, (*path, index), document))
        return items
    return None if node is None else _scalar(node)


def _mapping(node: yaml.MappingNode, path: Path, document: Document) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        key = _scalar(key_node) if isinstance(key_node, yaml.ScalarNode) else None
        if not isinstance(key, str):
            problem = "keys are texts; put this one in quotes"
            document.faults.append(ConfigFault(text_of(path) or WHOLE_FILE, problem, line=line))
        elif key in values:
            named = name_of(key)
            problem = f"the key {named} is here twice" if named else "a key is here twice"
            document.faults.append(ConfigFault(text_of((*path, key)), problem, line=line))
        else:
            document.lines[*path, key] = line
            values[key] = _value(value_node, (*path, key), document)
    return values


def _scalar(node: yaml.Node) -> Plain:
    text = str(node.value)
    if node.tag == _BOOLEAN:
        return text.lower() == "true"
    if node.tag == _NULL:
        return None
    if node.tag == _INTEGER:
        return int(text)
    return Decimal(text) if node.tag == _DECIMAL else text
