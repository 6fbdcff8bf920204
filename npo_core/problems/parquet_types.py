"""One type for every column of a folder of Parquet files that do not quite agree."""

import os
from typing import Any

from npo_core.config import Source
from npo_core.errors import DataError


def common_types(files: list[str], source: Source) -> dict[str, Any]:
    """What `from_parquet` is told where files have other columns or types than the first, as one null in it.

    Raises:
        DataError: a declared column has types that go together in no way; one that is not declared is left out.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import Features

    schemas = {os.path.relpath(file, source.path): pq.read_schema(file) for file in files}
    if all(schema.equals(next(iter(schemas.values()))) for schema in schemas.values()):
        return {}
    names = dict.fromkeys(name for schema in schemas.values() for name in schema.names)
    fields = {name: common_field(name, schemas) for name in names}
    if odd := [name for name, field in fields.items() if field is None]:  # then one that a file lacks cannot be read
        fields = {n: f for n, f in fields.items() if f is not None and all(n in s.names for s in schemas.values())}
    for name in source.columns.declared:
        if name in names and name not in fields:
            each = ", ".join(f"{s.field(name).type if name in s.names else 'not'} in {f}" for f, s in schemas.items())
            raise DataError(f"{source.path}: column {name!r} is {each}: write it as one type in every file.")
    features = Features.from_arrow_schema(pa.schema([*fields.values()]))
    return {"features": features, "columns": [*fields] if odd else None}


def common_field(name: str, schemas: dict[str, Any]) -> Any:
    """A column's field in a type that all files' values have; None where there is none."""
    import pyarrow as pa

    found = [pa.schema([schema.field(name)]) for schema in schemas.values() if name in schema.names]
    try:
        return pa.unify_schemas(found, promote_options="permissive").field(name)
    except pa.ArrowException:
        return None
