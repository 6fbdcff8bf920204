"""Every field of the configuration in a table: default, bounds, what it means."""

from collections.abc import Iterator
from typing import Any

from npo_core.config import RunConfig
from npo_core.reporting.tables import Table

BOUNDS = {
    "minimum": "≥ {}",
    "exclusiveMinimum": "> {}",
    "maximum": "≤ {}",
    "exclusiveMaximum": "< {}",
    "multipleOf": "multiple of {}",
    "minItems": "at least {} items",
    "pattern": "like {}",
}
Schema = dict[str, Any]


def fields_table(values: dict[str, object] | None = None) -> Table:
    """All fields of RunConfig; with `values` (dotted names) also those, changed ones with an asterisk."""
    schema = RunConfig.model_json_schema()
    rows = []
    for name, field, variant in walk(schema, schema["$defs"], ""):
        default = shown(field.get("default", "required"))
        now = [marked(values, name, field, variant)] if values is not None else []
        rows.append(
            [name + (f"  ({variant})" if variant else ""), *now, default, bounds(field), field.get("description", "")]
        )
    header = ["field", *(["value"] if values is not None else []), "default", "allowed", "meaning"]
    return Table("Configuration", header, rows)


def walk(
    schema: Schema, definitions: dict[str, Schema], prefix: str, variant: str = ""
) -> Iterator[tuple[str, Schema, str]]:
    """Name, schema and variant of every leaf; a variant is the `kind` that a field belongs to."""
    for name, field in schema["properties"].items():
        kinds = field.get("discriminator", {}).get("mapping")
        groups = [choice["$ref"] for choice in [field, *field.get("anyOf", [])] if "$ref" in choice]
        references = list(kinds.items()) if kinds else [(variant, group) for group in groups]
        for kind, reference in references:
            yield from walk(definitions[reference.rpartition("/")[2]], definitions, f"{prefix}{name}.", kind)
        if not references:
            yield f"{prefix}{name}", field, variant


def bounds(field: Schema) -> str:
    """What a value may be."""
    if kinds := field.get("discriminator", {}).get("mapping"):
        return f"group of kind {' | '.join(kinds)}"
    if "anyOf" in field:
        return ", or ".join(bounds(choice) for choice in field["anyOf"] if choice.get("type") != "null")
    if "enum" in field or "const" in field:
        return " | ".join(map(str, field.get("enum", [field.get("const")])))
    kind = field.get("type", "")
    if kind == "array":
        kind = f"list of {field.get('items', {}).get('type', 'groups')}"
    return ", ".join([kind, *(text.format(field[key]) for key, text in BOUNDS.items() if key in field)])


def marked(values: dict[str, object], name: str, field: Schema, variant: str) -> str:
    """A value, with an asterisk where it is not the default; nothing for the fields of a kind that is not chosen."""
    if variant and values.get(f"{name.partition('.')[0]}.kind") != variant:
        return ""
    inside = {n.removeprefix(f"{name}."): v for n, v in values.items() if n.startswith(f"{name}.")}
    if name not in values and not inside:
        return ""  # its group is left out, or it has its default
    value = values.get(name, inside)
    return shown(value) + ("" if value == field.get("default", field.get("const")) else " *")


def shown(value: object) -> str:
    """A value as it is written in a configuration."""
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return str(value).lower() if isinstance(value, bool) else str(value)
