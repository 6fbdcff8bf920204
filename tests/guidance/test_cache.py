"""The guidance cache and its shards: what is written is read, only what is asked for is read, damage is named."""

from __future__ import annotations

import hashlib
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import npo_core.guidance.cache as cache_module
from npo_core.errors import ConfigError, DamagedError, DataError, StorageError
from npo_core.guidance import (
    CacheWriter,
    GuidanceCache,
    PromptCost,
    Trajectory,
    done_shards,
    merge_shards,
    read_shard_ids,
    read_shards,
    shard_totals,
    summary,
    write_shard,
)
from npo_core.guidance.parquet import RowGroupWriter
from npo_core.timeline.store import Store

EOS = 2
FACTS = {
    "tokenizer": "tok-1",
    "model": "model-1",
    "problems": "set-1",
    "reward_names": ["correct", "format"],
    "eos_token_id": EOS,
    "sampling": {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "k": 8, "keep": "first"},
    "guides": [{"id": "guide-a", "step": 60}, {"id": "guide-b", "step": 20}],
    "prompts_skipped": 3,
    "seconds": 1.5,
}
COUNTS = {"prompts_asked": 10_000, "samples_drawn": 20_000, "tokens_generated": 400_000}


FIVE = np.array([5, 6, 7, 8, EOS], np.int32)


def prompt_id(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()[:32]


def make(number: int, length: int = 5, guide: str = "guide-a", **changes) -> Trajectory:
    rng = np.random.default_rng(number)
    token_ids = rng.integers(3, 151_000, length, dtype=np.int32)
    token_ids[-1] = EOS
    row = Trajectory(
        prompt_id=prompt_id(number),
        token_ids=token_ids,
        logprobs=-rng.exponential(size=length).astype(np.float32),
        rewards=np.array([1.0, rng.random()], np.float32),
        outcome="correct",
        guide=guide,
        guide_step={"guide-a": 60, "guide-b": 20}[guide],
        sample=1,
        samples=4,
        seed=number,
    )
    return replace(row, **changes)


def rows_of(count: int) -> list[Trajectory]:
    return sorted((make(n, length=1 + n % 40) for n in range(count)), key=lambda row: row.prompt_id)


def write_cache(store: Store, rows: list[Trajectory], *, rows_per_file: int = 100, **facts):
    writer = CacheWriter(store, rows_per_file=rows_per_file)
    writer.write(rows)
    return writer.finish(**{**FACTS, **COUNTS, **facts})


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def s3_root():
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    options = {"key": "test", "secret": "test", "endpoint_url": f"http://{host}:{port}"}
    store = Store("s3://guidance/run", options)
    store.fs.mkdir("guidance")
    yield store
    server.stop()


# --- round trip -------------------------------------------------------------------------------------------------------


@st.composite
def trajectories(draw) -> list[Trajectory]:
    numbers = draw(st.lists(st.integers(0, 10**6), max_size=80, unique=True))
    lengths = st.integers(1, 20)
    guides = st.sampled_from(["guide-a", "guide-b"])
    seeds = st.integers(-(2**63), 2**63 - 1)
    rows = [make(n, length=draw(lengths), guide=draw(guides), seed=draw(seeds)) for n in numbers]
    return sorted(rows, key=lambda row: row.prompt_id)


@settings(max_examples=40, suppress_health_check=[HealthCheck.data_too_large, HealthCheck.too_slow])
@given(rows=trajectories(), data=st.data(), rows_per_file=st.integers(1, 90))
def test_what_is_written_is_read(rows, data, rows_per_file):
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        info = write_cache(store, rows, rows_per_file=rows_per_file)
        assert info.rows == len(rows)
        assert list(GuidanceCache.open(store)) == rows
        asked = data.draw(st.lists(st.sampled_from(rows), max_size=10)) if rows else []
        cache = GuidanceCache.open(store, [row.prompt_id for row in asked] + [prompt_id(-1)])
        assert cache.ids() == sorted({row.prompt_id for row in asked})
        assert cache.lookup([row.prompt_id for row in asked]) == asked
        assert cache.get(prompt_id(-1)) is None and prompt_id(-1) not in cache


def test_bytes_and_id_depend_on_content_alone(tmp_path):
    rows = rows_of(150)
    first, again = Store(str(tmp_path / "a")), Store(str(tmp_path / "b"))
    info = write_cache(first, rows)
    assert write_cache(again, rows) == info
    for entry in info.files:
        assert first.read_bytes(entry.name) == again.read_bytes(entry.name)
        assert entry.bytes == len(first.read_bytes(entry.name))
    other = write_cache(Store(str(tmp_path / "c")), rows, rows_per_file=7, seconds=99.0)
    assert other.id == info.id and len(other.files) == 22


@pytest.mark.parametrize(
    "facts",
    [{"tokenizer": "tok-2"}, {"sampling": {"k": 4}}, {"eos_token_id": [EOS, 5]}, {"guides": FACTS["guides"][:1]}],
)
def test_id_follows_the_facts(tmp_path, facts):
    rows = rows_of(3)
    plain, changed = (write_cache(Store(str(tmp_path / n)), rows, **f) for n, f in (("a", {}), ("b", facts)))
    assert plain.id != changed.id


@settings(max_examples=20)
@given(index=st.integers(0, 9), place=st.integers(0, 9), field=st.sampled_from(["token_ids", "logprobs"]))
def test_id_follows_every_value(index, place, field):
    token_ids = np.append(np.arange(9, dtype=np.int32), np.int32(EOS))
    rows = [replace(row, token_ids=token_ids, logprobs=np.full(10, -1, np.float32)) for row in rows_of(10)]
    is_eos = (field, place) == ("token_ids", 9)  # must stay as it is
    values = getattr(rows[index], field).copy()
    values[place] += 0 if is_eos else -0.5 if field == "logprobs" else 1
    changed = [*rows[:index], replace(rows[index], **{field: values}), *rows[index + 1 :]]
    with tempfile.TemporaryDirectory() as a, tempfile.TemporaryDirectory() as b:
        same = write_cache(Store(a), rows).id == write_cache(Store(b), changed).id
    assert same == is_eos


def test_views_cannot_be_written(store):
    rows = rows_of(3)
    write_cache(store, rows)
    with pytest.raises(ValueError, match="read-only"):
        GuidanceCache.open(store).get(rows[0].prompt_id).token_ids[0] = 7


def test_empty_cache(store):
    info = write_cache(store, [], prompts_asked=0)
    cache = GuidanceCache.open(store)
    assert (info.coverage, info.files, len(cache), cache.ids()) == (0.0, [], 0, [])
    assert summary(store)["lengths"] is None


def test_summary(store):
    rows = [make(1, 4), make(2, 6), make(3, 11, guide="guide-b")]
    write_cache(store, sorted(rows, key=lambda r: r.prompt_id), prompts_asked=4, samples_drawn=9, tokens_generated=60)
    told = summary(store)
    assert told["coverage"] == 0.75
    assert told["lengths"] == {"min": 4, "median": 6.0, "mean": 7.0, "max": 11}
    assert [(g["step"], g["rows"]) for g in told["guides"]] == [(60, 2), (20, 1)]
    assert (told["samples_per_trajectory"], told["tokens_per_trajectory"]) == (3.0, 20.0)


# --- only what is asked for -------------------------------------------------------------------------------------------


def test_reads_only_the_row_groups_needed(store):
    rows = rows_of(1000)
    info = write_cache(store, rows, rows_per_file=320)
    assert [entry.row_groups for entry in info.files] == [10, 10, 10, 2]
    asked = [rows[0], rows[5], rows[33], rows[999]]  # two in one group, its neighbour, and the last of the last file
    cache = GuidanceCache.open(store, [row.prompt_id for row in asked])
    assert (cache.read.files, cache.read.row_groups) == (2, 3)
    assert cache.read.bytes < sum(entry.bytes for entry in info.files) / 5
    assert GuidanceCache.open(store).read.row_groups == 32
    assert GuidanceCache.open(store, []).read.files == 0


def test_long_rows_make_small_row_groups(store):
    rows = sorted((make(n, length=30_000) for n in range(7)), key=lambda row: row.prompt_id)
    assert write_cache(store, rows).files[0].row_groups == 3  # closed at 65,536 tokens
    assert list(GuidanceCache.open(store)) == rows


def test_values_lie_in_several_batches(store, monkeypatch):
    monkeypatch.setattr("npo_core.guidance.parquet.BATCH_TOKENS", 150)
    rows = rows_of(120)
    write_cache(store, rows)
    assert list(GuidanceCache.open(store)) == rows
    assert list(GuidanceCache.open(store, [row.prompt_id for row in rows[::3]])) == rows[::3]


def test_opened_for_prompts_nothing_is_decoded_and_a_file_once(store, monkeypatch):
    rows = rows_of(250)
    write_cache(store, rows)
    cache = GuidanceCache.open(store, [row.prompt_id for row in rows])
    decoded, read_rows = [], cache_module._read_rows
    monkeypatch.setattr(cache_module, "_read_rows", lambda *given: decoded.append(given[2].name) or read_rows(*given))
    assert len(cache) == 250 and rows[7].prompt_id in cache and decoded == []
    assert cache.get(rows[120].prompt_id) == rows[120] and decoded == ["part-00001.parquet"]
    assert list(cache) == rows and sorted(decoded) == [f"part-{n:05d}.parquet" for n in range(3)]


def test_the_rows_of_a_prompt_may_lie_in_two_files(store):
    one = make(1)
    samples = [replace(one, sample=number) for number in range(4)]
    rows = sorted([*samples, make(2), make(3)], key=lambda row: (row.prompt_id, row.sample))
    write_cache(store, rows, rows_per_file=3)
    cache = GuidanceCache.open(store, [prompt_id(n) for n in (1, 2, 3)])
    assert cache.get_all(one.prompt_id) == samples
    assert list(cache) == rows


def test_a_cache_of_before_has_no_index_and_is_read(store):
    rows = rows_of(150)
    write_cache(store, rows)
    record = store.read_json("cache.json")
    del record["index"]
    store.write_json("cache.json", record)
    store.remove("index.npz")
    assert list(GuidanceCache.open(store, [row.prompt_id for row in rows[::9]])) == rows[::9]


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["tokenizer", "model", "problems", "reward_names"])
def test_a_cache_of_something_else_is_refused_by_name(store, field):
    write_cache(store, rows_of(3))
    ours = ["other"] if field == "reward_names" else "other"
    expect = {name: FACTS[name] for name in ("tokenizer", "model", "problems", "reward_names")}
    assert len(GuidanceCache.open(store, expect=expect)) == 3
    with pytest.raises(DataError, match=f"was made for {field} .*, this run uses .*other.*: generate guidance again"):
        GuidanceCache.open(store, expect={**expect, field: ours})
    with pytest.raises(ConfigError, match="colour"):
        GuidanceCache.open(store, expect={"colour": "red"})


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"logprobs": np.zeros(4, np.float32)}, "5 token_ids but 4 logprobs"),
        ({"token_ids": np.zeros(0, np.int32), "logprobs": np.zeros(0, np.float32)}, "empty"),
        ({"logprobs": np.array([0, 0, np.nan, 0, 0], np.float32)}, "finite"),
        ({"logprobs": np.array([0, 0, -np.inf, 0, 0], np.float32)}, "finite"),
        ({"logprobs": np.array([0, 0, 0.01, 0, 0], np.float32)}, "0 or less"),
        ({"token_ids": np.array([1, 2, -1, 2, 2], np.int32)}, "-1"),
        ({"token_ids": np.zeros(5, np.int64)}, "int64"),
        ({"rewards": np.array([np.nan], np.float32)}, "rewards"),
        ({"outcome": "fine"}, "outcome"),
        ({"prompt_id": "Hello"}, "prompt_id"),
        ({"guide": ""}, "guide is empty"),
        ({"sample": 4}, "sample is 4 of 4"),
        ({"seed": 2**63}, "seed"),
    ],
)
def test_unsound_rows_are_refused(store, changes, told):
    row = replace(make(1), **changes)
    with pytest.raises(DataError, match=told):
        row.validate()
    with pytest.raises(DataError, match=told):
        CacheWriter(store).write([row])


def test_tiny_positive_logprobs_are_rounding():
    make(1, logprobs=np.full(5, 5e-5, np.float32)).validate()


def test_order_duplicates_and_outcome(store):
    first, second = rows_of(2)
    with pytest.raises(DataError, match="comes twice"):
        CacheWriter(store).write([first, first])
    with pytest.raises(DataError, match="sorted by prompt id"):
        CacheWriter(store).write([second, first])
    with pytest.raises(DataError, match="this is 'wrong'"):
        CacheWriter(store).write([replace(first, outcome="wrong")])


@pytest.mark.parametrize(
    "facts, told",
    [
        ({"eos_token_id": 99}, "no end-of-sequence token"),
        ({"guides": [{"id": "guide-b", "step": 20}]}, "guide-a"),
        ({"guides": [{"id": "guide-a", "step": 61}]}, "guide-a"),
        ({"reward_names": ["correct"]}, "2"),
        ({"prompts_asked": 2}, "prompts_asked is 2"),
        ({"colour": "red"}, "colour"),
        ({"tokenizer": None}, "tokenizer"),
    ],
)
def test_facts_that_contradict_the_rows(store, facts, told):
    with pytest.raises(DataError, match=told):
        write_cache(store, rows_of(3), **facts)
    with pytest.raises(DataError, match="no complete guidance cache"):
        GuidanceCache.open(store)


def test_a_complete_cache_is_never_overwritten(store):
    write_cache(store, rows_of(3))
    with pytest.raises(DataError, match="already holds"):
        CacheWriter(store)


def test_leftovers_of_a_killed_writer_go_away(store):
    CacheWriter(store, rows_per_file=2).write(rows_of(9))
    assert len(store.list()) >= 4
    write_cache(store, rows_of(9))
    assert store.list() == ["cache.json", "index.npz", "part-00000.parquet"]


def test_a_full_disk_is_a_storage_error(store, monkeypatch):
    monkeypatch.setattr("npo_core.guidance.writer._create", lambda store, name: open("/dev/full", "wb", buffering=0))
    with pytest.raises(StorageError, match="full"):
        write_cache(store, rows_of(40))


# --- damage -----------------------------------------------------------------------------------------------------------


def damage(store: Store, name: str, change) -> None:
    path = Path(store.path(name))
    path.write_bytes(change(path.read_bytes()))


def test_missing_and_truncated_files_are_named(store):
    rows = rows_of(150)
    write_cache(store, rows)
    damage(store, "part-00001.parquet", lambda data: data[:-1])
    with pytest.raises(DamagedError, match=r"part-00001.parquet has \d+ bytes, \d+ were written.*generate"):
        GuidanceCache.open(store, [])
    store.remove("part-00001.parquet")
    with pytest.raises(DamagedError, match="part-00001.parquet is missing.*generate guidance again"):
        GuidanceCache.open(store, [])
    with pytest.raises(DamagedError, match="part-00001.parquet is missing"):
        summary(store)


def test_altered_bytes_are_found(store):
    rows = rows_of(150)
    write_cache(store, rows)
    GuidanceCache.open(store).verify()
    damage(store, "part-00000.parquet", lambda data: data[:300] + bytes(64) + data[364:])
    with pytest.raises(DamagedError, match="part-00000.parquet"):
        GuidanceCache.open(store, []).verify()
    damage(store, "part-00000.parquet", lambda data: data[:-60] + bytes(60))
    with pytest.raises(DamagedError, match="part-00000.parquet cannot be read"):
        GuidanceCache.open(store)


def test_one_altered_bit_is_found_when_the_cache_is_opened_for_its_prompt(store):
    rows = rows_of(150)
    write_cache(store, rows)
    damage(store, "part-00001.parquet", lambda data: data[:40] + bytes([data[40] ^ 1]) + data[41:])
    assert GuidanceCache.open(store, [rows[0].prompt_id]).get(rows[0].prompt_id) == rows[0]
    with pytest.raises(DamagedError, match=r"bytes 0 to \d+ of part-00001.parquet are not what was written.*generate"):
        GuidanceCache.open(store, [rows[100].prompt_id])
    damage(store, "index.npz", lambda data: data[:40] + bytes([data[40] ^ 1]) + data[41:])
    for read in (lambda: GuidanceCache.open(store, []), GuidanceCache.open(store, None).verify):
        with pytest.raises(DamagedError, match="the content of .*index.npz"):
            read()


def test_swapped_files_of_equal_size_are_refused(store):
    write_cache(store, rows_of(150))
    record = store.read_json("cache.json")
    record["files"][0]["rows"] -= 1
    record["rows"] -= 1
    store.write_json("cache.json", record)
    with pytest.raises(DamagedError, match="has 100 rows, not 99"):
        GuidanceCache.open(store)


@pytest.mark.parametrize(
    "change, kind, told",
    [
        (lambda record: record | {"schema_version": 2}, DataError, "schema version 2"),
        (lambda record: record | {"colour": "red"}, DamagedError, "colour"),
        (lambda record: {k: v for k, v in record.items() if k != "schema_version"}, DamagedError, "schema_version"),
        (lambda record: record | {"rows": 4}, DamagedError, "counts 4 rows"),
    ],
)
def test_unknown_records(store, change, kind, told):
    write_cache(store, rows_of(3))
    store.write_json("cache.json", change(store.read_json("cache.json")))
    with pytest.raises(kind, match=told):
        GuidanceCache.open(store)


@pytest.mark.parametrize(
    "changes",
    [
        {"token_ids": FIVE, "logprobs": np.array([0, 0, np.nan, 0, 0], np.float32)},
        {"token_ids": FIVE, "logprobs": np.array([0, 0, -np.inf, 0, 0], np.float32)},
        {"token_ids": FIVE, "logprobs": np.array([0, 0, 0.5, 0, 0], np.float32)},
        {"logprobs": np.zeros(4, np.float32)},
        {"token_ids": np.full(5, -2, np.int32)},
        {"rewards": np.ones(3, np.float32)},
        {"outcome": "wrong"},
    ],
)
def test_rows_are_checked_when_read(tmp_path, changes):
    store = Store(str(tmp_path))
    good, bad = rows_of(1), [replace(rows_of(1)[0], **changes)]
    write_cache(store, good)
    parquet = RowGroupWriter(store.path("part-00000.parquet"))
    parquet.add(bad[0])
    parquet.close()
    record = store.read_json("cache.json")
    record["files"][0]["bytes"] = len(store.read_bytes("part-00000.parquet"))
    store.write_json("cache.json", record)
    with pytest.raises(DamagedError, match="part-00000.parquet cannot be read .rows hold"):
        GuidanceCache.open(store)


def test_rows_whose_log_probabilities_nobody_knows_lie_beside_others(store):
    """Of completions that somebody wrote; a row knows all of them or none."""
    longest = max(rows_of(3), key=lambda row: len(row.token_ids))
    unknown = replace(longest, logprobs=np.full(len(longest.token_ids), np.nan, np.float32))
    written = [unknown if row == longest else row for row in rows_of(3)]
    write_cache(store, written)
    assert list(GuidanceCache.open(store)) == written


def test_several_rows_of_a_prompt_are_kept_in_the_order_of_their_samples(store):
    first, second = (replace(make(1, length=n), sample=s, samples=4) for n, s in ((5, 1), (7, 3)))
    info = write_cache(store, sorted([make(2), first, second], key=lambda row: (row.prompt_id, row.sample)))
    cache = GuidanceCache.open(store)
    assert (info.rows, info.prompts_solved, info.coverage) == (3, 2, 2 / 10_000)
    assert cache.get_all(first.prompt_id) == [first, second] and cache.get(first.prompt_id) == first
    assert cache.get_all("nobody") == []


def test_record_that_is_no_json(store):
    write_cache(store, rows_of(3))
    store.write_bytes("cache.json", b'{"schema_version": 1,')
    with pytest.raises(DamagedError, match="cache.json"):
        GuidanceCache.open(store)


# --- shards -----------------------------------------------------------------------------------------------------------


def chunk(index: int, size: int = 50) -> tuple[list[Trajectory], list[PromptCost]]:
    """A chunk of prompts of which every third stays unsolved."""
    numbers = range(index * size, (index + 1) * size)
    solved = [make(n, length=1 + n % 30) for n in numbers if n % 3]
    return solved, [PromptCost(prompt_id(n), samples=1 + n % 4, tokens=100) for n in numbers]


def test_a_killed_generation_goes_on_to_the_same_cache(tmp_path):
    whole, broken = Store(str(tmp_path / "whole")), Store(str(tmp_path / "broken"))
    for index in range(5):
        write_shard(whole, index, *chunk(index))
    for index in (3, 0):
        write_shard(broken, index, *chunk(index))
    folder = tmp_path / "broken" / "shards"
    (folder / ".tmp-000001.parquet").write_bytes(b"PAR1 half of it")
    (folder / "000001.parquet.tmp").write_bytes(b"PAR1 half of it")
    assert done_shards(broken) == [0, 3]
    assert read_shard_ids(broken, 3) == sorted(row.prompt_id for row in chunk(3)[0])
    for index in set(range(5)) - set(done_shards(broken)):
        write_shard(broken, index, *chunk(index))

    info, again = (merge_shards(s, Store(str(tmp_path / n)), **FACTS) for s, n in ((whole, "a"), (broken, "b")))
    assert again == info
    assert (info.rows, info.prompts_asked, info.tokens_generated) == (166, 250, 25_000)
    assert info.samples_drawn == shard_totals(whole).samples
    rows = sorted((row for i in range(5) for row in chunk(i)[0]), key=lambda row: row.prompt_id)
    assert list(read_shards(whole)) == rows
    assert list(GuidanceCache.open(Store(str(tmp_path / "a")).child(info.id))) == rows
    assert write_cache(Store(str(tmp_path / "direct")), rows).id == info.id


def test_merging_again_returns_what_is_there(tmp_path):
    shards, caches = Store(str(tmp_path / "stage")), Store(str(tmp_path / "guidance"))
    write_shard(shards, 0, *chunk(0))
    info = merge_shards(shards, caches, **FACTS)
    assert merge_shards(shards, caches, **{**FACTS, "seconds": 77.0}) == info
    assert caches.list() == [info.id]


def test_no_prompt_solved(tmp_path):
    shards = Store(str(tmp_path / "stage"))
    assert done_shards(shards) == [] and shard_totals(shards).prompts == 0
    write_shard(shards, 0, [], [PromptCost(prompt_id(1), 8, 400)])
    info = merge_shards(shards, Store(str(tmp_path / "guidance")), **FACTS)
    assert (info.rows, info.prompts_asked, info.coverage) == (0, 1, 0.0)


def test_shards_are_checked(tmp_path):
    shards = Store(str(tmp_path / "stage"))
    row, attempt = make(1), PromptCost(prompt_id(1), 4, 20)
    with pytest.raises(DataError, match="twice"):
        write_shard(shards, 0, [row, row], [attempt])
    with pytest.raises(DataError, match="twice"):
        write_shard(shards, 0, [row], [attempt, attempt])
    with pytest.raises(DataError, match="costs do not name"):
        write_shard(shards, 0, [row], [])
    for index in (0, 1):
        write_shard(shards, index, [row], [attempt])
    with pytest.raises(DataError, match="comes twice"):
        merge_shards(shards, Store(str(tmp_path / "guidance")), **FACTS)
    damage(shards, "shards/000001.parquet", lambda data: data[:-5])
    with pytest.raises(DamagedError, match="000001.parquet cannot be read.*Remove this file and start the stage again"):
        merge_shards(shards, Store(str(tmp_path / "guidance")), **FACTS)


# --- object store -----------------------------------------------------------------------------------------------------


def test_on_s3(s3_root):
    for index in range(3):
        write_shard(s3_root, index, *chunk(index))
    info = merge_shards(s3_root, s3_root.child("guidance"), **FACTS)
    store = s3_root.child(f"guidance/{info.id}")
    rows = sorted((row for i in range(3) for row in chunk(i)[0]), key=lambda row: row.prompt_id)
    assert list(GuidanceCache.open(store)) == rows
    cache = GuidanceCache.open(store, [rows[0].prompt_id, rows[-1].prompt_id, prompt_id(-1)])
    assert list(cache) == [rows[0], rows[-1]]
    assert cache.read.row_groups <= 3 < info.files[0].row_groups
    cache.verify()
    assert summary(store)["rows"] == len(rows)
    store.remove("part-00000.parquet")
    with pytest.raises(DamagedError, match="part-00000.parquet is missing"):
        GuidanceCache.open(store)


@pytest.mark.parametrize("hole", [0, 256 * 1024])
def test_s3_reads_in_slabs(s3_root, monkeypatch, hole):
    """Only row groups that hold a prompt are requested; with a hole allowed those of a slab are joined."""
    rows = rows_of(300)
    store = s3_root.child(f"slabs-{hole}")
    write_cache(store, rows, rows_per_file=200)
    monkeypatch.setattr("npo_core.guidance.parquet.MAX_SLAB", 20_000)
    monkeypatch.setattr("npo_core.guidance.parquet.MAX_HOLE", hole)
    requests, fetch = [], store.fs.cat_ranges

    def fetched(paths, starts, stops, **options):
        requests.append(list(zip(starts, stops, strict=True)))
        return fetch(paths, starts, stops, **options)

    monkeypatch.setattr(store.fs, "cat_ranges", fetched)
    assert list(GuidanceCache.open(store)) == rows
    assert len(requests) > 2 and all(len(ranges) == 1 for ranges in requests)
    requests.clear()
    asked = [row.prompt_id for row in rows[::40]]
    cache = GuidanceCache.open(store, asked)
    assert cache.ids() == asked
    taken = sum(stop - start for ranges in requests for start, stop in ranges)
    assert taken == cache.read.bytes if hole == 0 else taken > cache.read.bytes


def test_cache_record_is_plain_json(store):
    write_cache(store, rows_of(3))
    record = json.loads(Path(store.path("cache.json")).read_text())
    assert record["schema_version"] == 1 and len(record["id"]) == 16
