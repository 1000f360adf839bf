"""`openapi`: the specification, without a gateway that runs."""

import os
import sys
from pathlib import Path

import yaml
from pydantic import SecretStr

from gateway.app import Gateway
from gateway.settings import Settings
from gateway.store.client import connect


def openapi() -> None:
    """Print the specification (OpenAPI 3.1, YAML).

    \b
    Example:
      quantapay-gateway openapi > openapi.yaml
    """
    settings = Settings(quantapay_api_key=SecretStr("none"), config=Path(os.devnull))
    document = Gateway(settings, redis=connect("redis://localhost")).specification()
    sys.stdout.write(yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120))
