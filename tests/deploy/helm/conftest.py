"""The chart, rendered."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

CHART = Path(__file__).parents[3] / "deploy" / "helm"
NEEDED = {
    "image": {"repository": "registry.example/quantapay-gateway"},
    "secrets": ["quantapay", "shop"],
    "redisUrl": "rediss://valkey.data.svc:6379",
}
"""The values that have no default."""
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Ten times quicker, where PyYAML was built with it: there are many alerts."""


class Refused(Exception):
    """Helm does not render it; the text is what a person would read."""


class Rendering:
    """The objects that the chart makes of some values."""

    def __init__(self, manifests: dict[str, str]) -> None:
        texts = [text for name, text in manifests.items() if name.endswith(".yaml")]
        self.objects: list[dict[str, Any]] = [one for text in texts for one in yaml.load_all(text, LOADER) if one]

    def one(self, kind: str, *, suffix: str = "") -> dict[str, Any]:
        """Return the object of a kind that is named after the release, with a suffix."""
        name = f"shop-quantapay-gateway{suffix}"
        (found,) = (one for one in self.objects if (one["kind"], one["metadata"]["name"]) == (kind, name))
        return found

    def kinds(self) -> list[str]:
        return sorted(one["kind"] for one in self.objects)

    @property
    def pod(self) -> dict[str, Any]:
        return self.one("Deployment")["spec"]["template"]["spec"]

    @property
    def container(self) -> dict[str, Any]:
        (container,) = self.pod["containers"]
        return container

    @property
    def environ(self) -> dict[str, str]:
        return {variable["name"]: variable["value"] for variable in self.container["env"]}


@pytest.fixture(scope="session")
def _helm() -> Iterator[subprocess.Popen[str]]:
    pytest.importorskip("helm_python", reason="helm-python-sdk is not installed")
    program = [sys.executable, Path(__file__).with_name("render.py"), CHART]
    pipe = subprocess.PIPE
    with subprocess.Popen(program, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True) as helm:
        yield helm  # leaving the block closes its input, which ends it


@pytest.fixture
def render(_helm: subprocess.Popen[str]) -> Callable[..., Rendering]:
    """Renders the chart with the needed values and more, as release `shop`; None takes a needed value away."""

    def make(**values: object) -> Rendering:
        given = {name: value for name, value in {**NEEDED, **values}.items() if value is not None}
        print(json.dumps(given), file=_helm.stdin, flush=True)
        answer = json.loads(_helm.stdout.readline())
        if "refusal" in answer:
            raise Refused(answer["refusal"])
        return Rendering(answer["manifests"])

    return make


@pytest.fixture
def refused() -> type[Refused]:
    """What `render` raises when Helm refuses."""
    return Refused
