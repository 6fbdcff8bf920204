"""Every kind of source gives the same problems, and what is wrong with one is said with its rows."""

import errno
import os

import datasets
import pytest
from datasets import Dataset, DatasetDict
from small_data import data, gsm8k, problems_of, write_jsonl

from npo_core.errors import ConfigError, DataError, StorageError

ONE_HELD_OUT = {"held_out_rows": 1, "chat": "never"}


def train_only(path, **fields):
    """Problems of one source, of which one row is held out."""
    return data(train={"path": str(path), **fields.pop("source", {})}, **{**ONE_HELD_OUT, **fields})


def everything(problems):
    return [*problems.train, *problems.held_out]


@pytest.fixture
def sources(tmp_path):
    """The same six rows in every format."""
    rows = Dataset.from_list(gsm8k())
    (tmp_path / "parts").mkdir()
    rows.to_parquet(tmp_path / "one.parquet")
    rows.select(range(4)).to_parquet(tmp_path / "parts" / "0.parquet")
    rows.select(range(4, 6)).to_parquet(tmp_path / "parts" / "1.parquet")
    rows.save_to_disk(tmp_path / "saved")
    DatasetDict({"main": rows, "other": rows.select([0])}).save_to_disk(tmp_path / "splits")
    return {
        "jsonl": {"path": write_jsonl(tmp_path / "rows.jsonl", gsm8k())},
        "parquet": {"path": str(tmp_path / "one.parquet")},
        "folder": {"path": str(tmp_path / "parts")},
        "saved": {"path": str(tmp_path / "saved")},
        "splits": {"path": str(tmp_path / "splits"), "split": "main"},
    }


def test_every_format_gives_the_same_problems(sources):
    found = {name: problems_of(data(train=source, **ONE_HELD_OUT)) for name, source in sources.items()}
    first = found.pop("jsonl")
    assert sorted(p.prompt for p in everything(first)) == sorted(row["question"] for row in gsm8k())
    for problems in found.values():
        assert problems.train == first.train and problems.held_out == first.held_out


def test_limit_reads_the_first_rows(sources):
    for name in ("jsonl", "saved"):
        problems = problems_of(data(train=sources[name] | {"limit": 3}, **ONE_HELD_OUT))
        assert {p.prompt for p in everything(problems)} == {row["question"] for row in gsm8k()[:3]}


def test_a_file_that_was_replaced_is_read_again(tmp_path):
    path = tmp_path / "rows.parquet"
    Dataset.from_list(gsm8k()[:3]).to_parquet(path)
    assert len(everything(problems_of(train_only(path)))) == 3
    Dataset.from_list(gsm8k()).to_parquet(path)
    assert len(everything(problems_of(train_only(path)))) == 6


def test_a_hub_data_set_is_asked_for_by_all_its_fields(monkeypatch):
    asked = []

    def load_dataset(*args, **kwargs):
        asked.append((args, kwargs))
        return Dataset.from_list(gsm8k())

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    source = {"path": "openai/gsm8k", "config": "main", "split": "train", "revision": "abc"}
    problems = problems_of(data(train=source, **ONE_HELD_OUT))
    assert asked == [(("openai/gsm8k", "main"), {"split": "train", "revision": "abc"})]
    assert problems.report["train"]["source"] == "openai/gsm8k (hub), split train"


def test_without_a_network_the_hub_says_so(monkeypatch):
    def load_dataset(*args, **kwargs):
        raise ConnectionError("Couldn't reach 'openai/gsm8k' on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DataError, match="Couldn't reach.*whether this machine has a network.*save_to_disk"):
        problems_of(train_only("openai/gsm8k"))


def test_fields_that_a_file_does_not_have(sources):
    with pytest.raises(ConfigError, match=r"rows.jsonl \(jsonl\) has no config, split"):
        problems_of(data(train=sources["jsonl"] | {"config": "main", "split": "train"}, **ONE_HELD_OUT))
    with pytest.raises(ConfigError, match="saved holds one data set without splits"):
        problems_of(data(train=sources["saved"] | {"split": "train"}, **ONE_HELD_OUT))


def test_splits_are_named(sources):
    with pytest.raises(DataError, match="has the splits main, other, not None"):
        problems_of(data(train=sources["splits"] | {"split": None}, **ONE_HELD_OUT))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("gone.jsonl", None, "cannot be read"),
        ("data.csv", b"a,b", "no JSON Lines or Parquet file"),
        ("broken.parquet", b"PAR1 no", "cannot be read as Parquet"),
        ("latin.jsonl", "{'é'}".encode("latin-1"), "not UTF-8"),
        ("empty.jsonl", b"", "is empty"),
    ],
)
def test_what_is_no_source(tmp_path, name, content, words):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=words) as caught:
        problems_of(train_only(tmp_path / name))
    assert name in str(caught.value)


GOOD = gsm8k()[0]
FAULTS = {
    "no object": (["{", GOOD, "[1]", ""], "no JSON object: rows 1, 3, 4 (3 in all)"),
    "an empty answer": ([GOOD, GOOD | {"answer": " "}], "the answer (column answer) is empty: row 2"),
    "an answer that is missing": ([GOOD, {"question": "?"}], "the answer (column answer) is empty: row 2"),
    "an empty prompt": ([GOOD, GOOD | {"question": ""}], "the prompt (column question) is empty: row 2"),
    "a wrong type": ([GOOD, GOOD | {"question": ["a"]}], "the prompt (column question) is a list, not text: row 2"),
    "a truth value": ([GOOD, GOOD | {"answer": True}], "the answer (column answer) is a bool, not text: row 2"),
    "no final answer": ([GOOD, GOOD | {"answer": "12"}], "finds no final answer (column answer): row 2"),
    "the same twice": ([*gsm8k()[:2], GOOD], "the same problem as an earlier row: row 3 as 1"),
    "many": ([GOOD, *[GOOD | {"answer": ""}] * 7], "is empty: rows 2, 3, 4, 5, 6, ... (7 in all)"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_rows_that_cannot_be_used_are_named(tmp_path, name):
    rows, words = FAULTS[name]
    held_out = {"path": write_jsonl(tmp_path / "held_out.jsonl", gsm8k()[5:])}
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    with pytest.raises(DataError) as caught:
        problems_of(data(train={"path": path}, held_out=held_out, chat="never"))
    assert words in str(caught.value) and path in str(caught.value)


def test_all_kinds_of_faults_are_named_at_once(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", [GOOD | {"id": "q1", "answer": ""}, "no", GOOD | {"id": "q3"}])
    with pytest.raises(DataError) as caught:
        problems_of(train_only(path, source={"columns": {"id": "id"}}))
    assert "is empty: row 1 (q1)" in str(caught.value) and "no JSON object: row 2" in str(caught.value)


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_missing_column_is_named_with_those_there_are(sources, kind):
    columns = {"prompt": "problem", "difficulty": "level"}
    with pytest.raises(DataError, match="'level' .columns.difficulty.*'problem' .columns.prompt.*question, answer"):
        problems_of(data(train=sources[kind] | {"columns": columns}, **ONE_HELD_OUT))


def test_a_problem_in_both_sets(files):
    with pytest.raises(DataError, match="4 problems are in both"):
        problems_of(data(train=files["train"], held_out=files["train"], chat="never"))


def test_difficulties_are_numbers_or_text(tmp_path):
    def problems(*levels):
        rows = [row | {"level": level} for row, level in zip(gsm8k(), levels, strict=False)]
        path = write_jsonl(tmp_path / "rows.jsonl", rows)
        return everything(problems_of(train_only(path, source={"columns": {"difficulty": "level"}})))

    assert sorted(p.difficulty for p in problems(3, 1, 2.0)) == [1, 2, 3]
    assert sorted(p.difficulty for p in problems("hard", "easy")) == ["easy", "hard"]
    with pytest.raises(DataError, match="a number in some rows and text in others"):
        problems("hard", 3)
    with pytest.raises(DataError, match="is a float, not a whole number or text: row 2"):
        problems(1, 2.5)


def test_held_out_rows_stay_when_rows_are_added(tmp_path):
    rows = [{"question": f"{a} plus {b}?", "answer": f"#### {a + b}"} for a in range(10) for b in range(10)]

    def held_out(rows):
        path = write_jsonl(tmp_path / "rows.jsonl", rows)
        problems = problems_of(train_only(path, held_out_rows=20))
        assert len(problems.held_out) == 20 and len(problems.train) == len(rows) - 20
        return {p.id for p in problems.held_out}

    before = held_out(rows)
    assert held_out(rows[::-1]) == before
    more = [{"question": f"{n} minus 1?", "answer": f"#### {n - 1}"} for n in range(5)]
    assert len(before - held_out([*more, *rows])) <= 5
    with pytest.raises(DataError, match="held_out_rows = 20 leaves no training problem of the 20 rows"):
        held_out(rows[:20])


def test_a_full_disk_is_no_fault_of_the_data(sources, monkeypatch):
    """Parquet is converted in a folder of `datasets`, which wraps what the disk says."""
    import pyarrow as pa

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pa.RecordBatchStreamWriter, "__init__", full)
    with pytest.raises(StorageError, match="where data sets are converted, is full: make room") as caught:
        problems_of(data(train=sources["parquet"], **ONE_HELD_OUT))
    assert caught.value.retryable


def test_two_rows_with_the_same_id_are_named(tmp_path):
    rows = [row | {"key": f"k{min(i, 4)}"} for i, row in enumerate(gsm8k())]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    with pytest.raises(DataError, match=r"the same id \(column key\) as an earlier row: row 6 \(k4\) as 5"):
        problems_of(train_only(path, source={"columns": {"id": "key"}}))
    problems_of(train_only(path))  # the column is not declared
    lists = write_jsonl(tmp_path / "lists.jsonl", [row | {"key": [i]} for i, row in enumerate(gsm8k())])
    problems_of(train_only(lists, source={"columns": {"id": "key"}}))  # whatever kind of value it is
