"""Parts of a segment written by an earlier version, with fewer columns, beside newer ones."""

import io

import pyarrow as pa
import pyarrow.parquet as pq

from npo_core.timeline import Store
from npo_core.timeline.segments import STEP_SCHEMA, Mark, read_parts, write_part


def test_columns_that_a_part_lacks_are_null(tmp_path):
    store, added = Store(tmp_path), ("verified_unparsable", "verified_timeout", "verified_crash")
    row = dict.fromkeys(STEP_SCHEMA.names, 1.0)
    write_part(store, "s", Mark(2, "a", 1.0), [row | {"step": 2}], [])
    older = pa.Table.from_pylist([row | {"step": 1}], STEP_SCHEMA).drop_columns(list(added))
    sink = io.BytesIO()
    pq.write_table(older, sink)
    store.write_bytes("segments/s/steps-000001.parquet", sink.getvalue())
    table = read_parts(store, "s", "steps", [1, 2])
    assert table.schema.equals(STEP_SCHEMA) and table["step"].to_pylist() == [1, 2]
    for name in added:
        assert table[name].to_pylist() == [None, 1.0]
    assert read_parts(store, "s", "steps", [1]).schema.equals(STEP_SCHEMA)
