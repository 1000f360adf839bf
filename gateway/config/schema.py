"""The JSON Schema of gateway.yaml, for editors and checks: made from the models, published in deploy/."""

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core.core_schema import ModelSchema

from gateway.config.model import Config
from gateway.quota import Quota
from gateway.settings.docstrings import field_docstrings


class _Generator(GenerateJsonSchema):
    """pydantic's generator, with our docstrings, and the defaults of quotas as the file writes them."""

    def encode_default(self, dft: Any) -> Any:  # noqa: ANN401 - pydantic's own signature
        return str(dft) if isinstance(dft, Quota) else super().encode_default(dft)

    def model_schema(self, schema: ModelSchema) -> JsonSchemaValue:
        written = super().model_schema(schema)
        model: type[BaseModel] = schema["cls"]
        for name, text in field_docstrings(model).items():
            written["properties"][name]["description"] = text
        return written


def config_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of the file as it is written, references to secrets included."""
    return {
        "$schema": _Generator.schema_dialect,
        **Config.model_json_schema(schema_generator=_Generator),
        "title": "gateway.yaml",
    }
