"""The metrics of a segment as Parquet: one row an optimizer update, one row a prompt.

A part ends at every snapshot: `steps-000040.parquet`, `outcomes-000040.parquet`, then `mark-000040.json` that names the
snapshot. What has no mark does not count: a segment that was cut off goes on from its newest mark. Where completions
are logged, `completions-000040.parquet` lies beside them; training never reads it.
"""

import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from npo_core.errors import DamagedError
from npo_core.timeline.records import Segment
from npo_core.timeline.store import Store

MIXED = (  # what `mix` did in an update; null where that part is not in use
    "tokens_extra",  # of extra samples, among tokens_generated
    "prompts_rescued",  # prompts that extra samples solved
    "prompts_chosen",  # places of the batch that a source of prompts filled
    "groups_left_dead",  # after dynamic sampling
    "rows_replayed",
    "store_size",  # prompts in the success store
    "pool_size",
    "queue_size",
    "teacher_rows",  # rows whose tokens a self-teacher weighed
)
STEP_SCHEMA = pa.schema(
    [
        ("step", pa.int64()),  # optimizer updates done
        ("loss", pa.float64()),
        ("grad_norm", pa.float64()),
        ("learning_rate", pa.float64()),
        ("reward", pa.float64()),  # mean over the mixed group, as trained on
        ("reward_std", pa.float64()),
        ("pass_rate", pa.float64()),  # mean on-policy accuracy, before injection
        ("verified_unparsable", pa.float64()),  # completions of the batch without an answer that can be read
        ("verified_timeout", pa.float64()),  # whose verification took too long, twice
        ("verified_crash", pa.float64()),  # whose verification crashed, twice
        ("entropy", pa.float64()),  # nats a token, guide slots included
        ("entropy_on_policy", pa.float64()),  # of the policy's own tokens alone; null in runs of before 0.3
        ("groups_all_wrong", pa.float64()),  # dead groups before injection
        ("groups_all_right", pa.float64()),
        ("groups_injected", pa.float64()),
        ("groups_rescued", pa.float64()),  # all wrong, and given a correct slot
        ("guide_log_ratio", pa.float64()),  # mean log pi_policy - log pi_guide on guide tokens, nats
        ("guide_kl", pa.float64()),  # KL(guide || policy), k3, nats a token
        ("clip_low", pa.float64()),  # share of tokens clipped
        ("clip_high", pa.float64()),
        ("rollout_kl", pa.float64()),  # KL(vLLM || policy) of the policy's own tokens, k3, nats a token; vLLM alone
        ("rollout_ratio", pa.float64()),  # mean weight by which their loss is corrected; null where it is not
        ("rollout_beyond", pa.float64()),  # share of them, tokens or completions, above the cap
        ("tokens_generated", pa.float64()),  # by the policy, completions only, extra samples among them
        ("tokens_trained", pa.float64()),  # of the completions that the update computed
        ("completion_length", pa.float64()),  # mean, tokens
        ("cut_off", pa.float64()),  # share of the policy's completions that did not end by themselves
        *((name, pa.float64()) for name in MIXED),
        ("seconds_generate", pa.float64()),
        ("seconds_verify", pa.float64()),
        ("seconds_update", pa.float64()),  # forward, backward and bookkeeping
    ]
)
OUTCOME_SCHEMA = pa.schema(
    [
        ("step", pa.int64()),  # the update that first trained on it
        ("prompt_id", pa.string()),
        ("pass_rate", pa.float64()),  # on-policy, over all n samples
        ("injected", pa.bool_()),
        ("tokens", pa.string()),  # hash of the group's token ids as trained on
        ("source", pa.string()),  # of the trajectory that its group took; empty: none
    ]
)
SAMPLE_SCHEMA = pa.schema(
    [
        ("step", pa.int64()),  # the update that first trained on it
        ("group", pa.int64()),  # its place in the batch; what was replayed follows, a row each
        ("pass_rate", pa.float64()),  # of the group, on-policy; NaN of what was replayed
        ("sample", pa.int64()),  # the place in the group
        ("prompt_id", pa.string()),
        ("prompt", pa.string()),  # as the model sees it, shortened
        ("completion", pa.string()),  # without special tokens, shortened
        ("tokens", pa.int64()),  # of the whole completion
        ("verdict", pa.string()),
        ("reward", pa.float64()),  # what it was trained on; NaN where nobody knows
        ("advantage", pa.float64()),  # NaN of what was replayed, which has a weight instead
        ("kind", pa.string()),  # policy, injected or replayed
        ("source", pa.string()),  # of a trajectory; empty: the policy
    ]
)
SCHEMAS = {"steps": STEP_SCHEMA, "outcomes": OUTCOME_SCHEMA, "completions": SAMPLE_SCHEMA}
TIMINGS = ("seconds_generate", "seconds_verify", "seconds_update")  # the only columns that differ between equal runs


@dataclass(frozen=True, slots=True)
class Mark:
    """The end of a part: step, snapshot, wall seconds since the mark before, why training ended, and its processes."""

    step: int
    snapshot: str
    seconds: float
    ended: str | None = None  # until, warning or tokens: the segment is over; None: it goes on
    processes: int = 1


def write_part(
    store: Store,
    segment: str,
    mark: Mark,
    steps: Sequence[dict[str, Any]],
    outcomes: Sequence[dict[str, Any]],
    completions: Sequence[dict[str, Any]] = (),
) -> None:
    """Commit one part of a segment: its tables, that of completions where there are some, then the mark."""
    folder = f"segments/{segment}"
    tables = {"steps": steps, "outcomes": outcomes} | ({"completions": completions} if completions else {})
    for name, rows in tables.items():
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(list(rows), SCHEMAS[name]), sink, compression="zstd")
        store.write_bytes(f"{folder}/{name}-{mark.step:06d}.parquet", sink.getvalue())
    write_mark(store, segment, mark)


def write_mark(store: Store, segment: str, mark: Mark) -> None:
    """Say that a part is complete."""
    store.write_json(f"segments/{segment}/mark-{mark.step:06d}.json", asdict(mark))


def part_files(steps: Iterable[int]) -> list[str]:
    """The names of all files of the parts that end at these steps."""
    kinds = ("steps-{:06d}.parquet", "outcomes-{:06d}.parquet", "mark-{:06d}.json")
    return [kind.format(step) for step in steps for kind in kinds]


def read_marks(store: Store, segment: str) -> list[Mark]:
    """The parts that a segment has so far, rising by step."""
    names = sorted(n for n in store.list(f"segments/{segment}") if n.startswith("mark-"))
    return [Mark(**store.read_json(f"segments/{segment}/{name}")) for name in names]


def read_steps(store: Store, segment: Segment) -> pa.Table:
    """One row an update of a finished segment, columns of `STEP_SCHEMA`."""
    return read_parts(store, segment.id, "steps", segment.parts)


def read_outcomes(store: Store, segment: Segment) -> pa.Table:
    """One row a prompt and generation batch of a finished segment, columns of `OUTCOME_SCHEMA`."""
    return read_parts(store, segment.id, "outcomes", segment.parts)


def read_completions(store: Store, segment: Segment) -> pa.Table:
    """The logged completions of a segment, columns of `SAMPLE_SCHEMA`; none where nobody asked for them."""
    there = set(store.list(f"segments/{segment.id}"))
    parts = [step for step in segment.parts if f"completions-{step:06d}.parquet" in there]
    return read_parts(store, segment.id, "completions", parts)


def read_parts(store: Store, segment: str, name: str, parts: Sequence[int]) -> pa.Table:
    """The parts of a segment, finished or not, that end at the given steps; `name` is one of `SCHEMAS`."""
    tables = []
    for step in parts:
        rel = f"segments/{segment}/{name}-{step:06d}.parquet"
        try:
            tables.append(pq.read_table(io.BytesIO(store.read_bytes(rel))))
        except (pa.ArrowInvalid, OSError) as error:
            raise DamagedError(
                f"{store.uri}/{rel} cannot be read ({error}): delete the folder segments/{segment} "
                "and start the same command again."
            ) from error
    empty = SCHEMAS[name].empty_table()
    return pa.concat_tables([empty, *tables], promote_options="default")  # null in columns that older parts lack
