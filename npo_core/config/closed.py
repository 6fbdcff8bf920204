"""What every group of settings is: closed, frozen, and shown in a form in the order of its declaration."""

from pydantic import BaseModel, ConfigDict

SHORT = {"ema": "EMA", "kl": "KL", "lora": "LoRA"}  # words that are not written in lower case


def in_order(schema: dict) -> None:
    """Forms show a model's fields as they are declared here, not by name."""
    for position, field in enumerate(schema.get("properties", {}).values()):
        field["position"] = position


def choices(schema: dict) -> None:
    """Forms show a choice between groups of settings as tabs where the schema says `anyOf`, and else as raw JSON."""
    schema["anyOf"] = schema.pop("oneOf")


def title(name: str, _: object) -> str:
    """The label of a field in a form: `kl_form` is KL form."""
    words = " ".join(SHORT.get(word, word) for word in name.split("_"))
    return words[0].upper() + words[1:]


class Closed(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        validate_default=True,
        allow_inf_nan=False,
        json_schema_extra=in_order,
        field_title_generator=title,
    )
