"""What every group of settings is: closed, frozen, and shown in a form in the order of its declaration."""

from pydantic import BaseModel, ConfigDict


def in_order(schema: dict) -> None:
    """Forms show a model's fields as they are declared here, not by name."""
    for position, field in enumerate(schema.get("properties", {}).values()):
        field["position"] = position


class Closed(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False, json_schema_extra=in_order
    )
