"""Every kind of source gives the same problems, and what is wrong with one is said with its rows."""

import errno
import os

import datasets
import pytest
from datasets import Dataset, DatasetDict
from small_data import data, gsm8k, problems_of, write_jsonl

from npo_core.errors import ConfigError, DataError, StorageError
from npo_core.problems import sources as sources_module

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
    monkeypatch.setattr(sources_module, "require_reachable", lambda kind, name: asked.append((kind, name)))
    source = {"path": "openai/gsm8k", "config": "main", "split": "train", "revision": "abc"}
    problems = problems_of(data(train=source, **ONE_HELD_OUT))
    assert asked == [("dataset", "openai/gsm8k"), (("openai/gsm8k", "main"), {"split": "train", "revision": "abc"})]
    assert problems.report["train"]["source"] == "openai/gsm8k (hub), split train"


def test_without_a_network_the_hub_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))

    def load_dataset(*args, **kwargs):
        raise ConnectionError("Couldn't reach 'openai/gsm8k' on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(ConfigError, match="data set of this id was not downloaded.*HF_HUB_OFFLINE.*save_to_disk"):
        problems_of(train_only("openai/gsm8k"))
    monkeypatch.setattr(sources_module, "require_reachable", lambda kind, name: None)
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
    "no object": (["{", GOOD, "", "[1]", "", ""], "no JSON object: rows 1, 3, 4 (3 in all)"),
    "an empty answer": ([GOOD, GOOD | {"answer": " "}], "the answer (column answer) is empty: row 2"),
    "an answer that is missing": ([GOOD, {"question": "?"}], "the answer (column answer) is empty: row 2"),
    "an empty prompt": ([GOOD, GOOD | {"question": ""}], "the prompt (column question) is empty: row 2"),
    "a wrong type": ([GOOD, GOOD | {"question": ["a"]}], "the prompt (column question) is a list, not text: row 2"),
    "a truth value": ([GOOD, GOOD | {"answer": True}], "the answer (column answer) is a bool, not text: row 2"),
    "no final answer": ([GOOD, GOOD | {"answer": "12"}], "the verifier finds no final answer (column answer): row 2"),
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


def numbered(path, answers, *, start=0, **columns):
    """A Parquet file of rows with these answers, and further columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    questions = [f"What is row {start + i}?" for i in range(len(answers))]
    pq.write_table(pa.table({"question": questions, "answer": answers, **columns}), path)
    return path


EXACT = {"answer_pattern": "^(.+)$"}


def test_a_byte_order_mark_and_an_array_are_read(tmp_path):
    import json

    lines = "".join(json.dumps(row) + "\n" for row in gsm8k())
    texts = {
        "mark.jsonl": "\ufeff" + lines,
        "array.json": json.dumps(gsm8k(), indent=2),
        "both.json": "\ufeff\n" + json.dumps(gsm8k()),
        "blanks.jsonl": lines + "\n  \n\n",
    }
    expected = everything(problems_of(train_only(write_jsonl(tmp_path / "plain.jsonl", gsm8k()))))
    for name, text in texts.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        assert everything(problems_of(train_only(tmp_path / name))) == expected, name
        three = everything(problems_of(train_only(tmp_path / name, source={"limit": 3})))
        assert {p.prompt for p in three} == {row["question"] for row in gsm8k()[:3]}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("\ufeff", "is empty: it needs a row for each problem"),
        ("\n\n", "is empty"),
        ("[]", "is empty"),
        ('{\n "train": [],\n "test": []\n}', "is one JSON object .'train', 'test'.: write an array of objects"),
        ('["a", {"question": "?", "answer": "#### 1"}]', "no JSON object: row 1"),
        ('[{"question": "?"},', "no JSON object: row 1"),
    ],
)
def test_files_that_hold_no_rows_are_named(tmp_path, text, words):
    (tmp_path / "rows.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=words):
        problems_of(train_only(tmp_path / "rows.json"))


def test_half_of_a_surrogate_pair_is_a_fault_of_its_row(tmp_path):
    rows = [*gsm8k()[:2], r'{"question": "a \ud800 b", "answer": "#### 1", "unused": ""}', GOOD | {"question": "other"}]
    with pytest.raises(DataError, match=r"half of a surrogate pair \(column question\), which is no text: row 3$"):
        problems_of(train_only(write_jsonl(tmp_path / "rows.jsonl", rows)))
    rows[2] = (
        r'{"question": "a \ud83d\ude00 b", "answer": "#### 1", "unused": "\udc00"}'  # a whole pair, and nobody reads
    )
    problems = everything(problems_of(train_only(write_jsonl(tmp_path / "rows.jsonl", rows))))
    assert "a \U0001f600 b" in {problem.prompt for problem in problems}


def test_control_characters_do_not_reach_a_terminal(tmp_path):
    rows = [GOOD | {"answer": "", "id": "q\x1b[2J\u202e1"}]
    with pytest.raises(DataError) as caught:
        problems_of(train_only(write_jsonl(tmp_path / "rows.jsonl", rows), source={"columns": {"id": "id"}}))
    assert r"row 1 (q\x1b[2J\u202e1)" in str(caught.value) and "\x1b" not in str(caught.value)


def test_whole_numbers_that_a_missing_value_made_floats_are_whole_numbers(tmp_path):
    path = numbered(
        tmp_path / "rows.parquet", [18.0, 2.5, -3.0, 7.0], level=[1.0, None, 2.0, 3.0], key=[1.0, 2.0, None, 4.0]
    )
    problems = everything(problems_of(train_only(path, source={"columns": {"id": "key"}}, **EXACT)))
    assert {problem.answer for problem in problems} == {"18", "2.5", "-3", "7"}
    with pytest.raises(DataError, match=r"the difficulty \(column level\) is empty: row 2 \(2\)$"):
        problems_of(train_only(path, source={"columns": {"id": "key", "difficulty": "level"}}, **EXACT))


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("NaN", r"the answer \(column answer\) is empty: row 2"),
        ("Infinity", "is inf, a float of lost digits: write it as text: row 2"),
        ("1e300", "is 1e.300, a float of lost digits"),
        ("123456789012345678.0", "a float of lost digits"),
    ],
)
def test_numbers_that_are_no_answers_are_named(tmp_path, answer, words):
    rows = [GOOD, f'{{"question": "?", "answer": {answer}}}', *gsm8k()[1:3]]
    with pytest.raises(DataError, match=words):
        problems_of(train_only(write_jsonl(tmp_path / "rows.jsonl", rows)))


def test_a_verifier_and_a_further_column_may_be_missing_as_nan(tmp_path):
    rows = [f'{{"question": "{n}?", "answer": "{n}", "v": NaN, "unit": NaN}}' for n in range(3)]
    source = {"columns": {"verifier": "v", "others": ["unit"]}, "prompt_template": "{prompt} [{unit}]"}
    problems = everything(problems_of(train_only(write_jsonl(tmp_path / "rows.jsonl", rows), source=source, **EXACT)))
    assert {(p.prompt, p.verifier, p.row["unit"]) for p in problems} == {(f"{n}? []", "", None) for n in range(3)}


def test_a_column_that_is_null_in_the_first_file_of_a_folder(tmp_path):
    import pyarrow as pa

    (tmp_path / "parts").mkdir()
    numbered(tmp_path / "parts" / "0.parquet", ["1", "2"], unused=pa.nulls(2), level=pa.nulls(2))
    numbered(tmp_path / "parts" / "1.parquet", ["3", "4"], start=2, unused=["a", "b"], level=["x", "y"])
    numbered(tmp_path / "parts" / "2.parquet", ["5", "6"], start=4)  # has none of them
    problems = everything(problems_of(train_only(tmp_path / "parts", **EXACT)))
    assert {problem.answer for problem in problems} == set("123456")
    others = {"columns": {"others": ["level"]}}
    problems = everything(problems_of(train_only(tmp_path / "parts", source=others, **EXACT)))
    levels = {problem.answer: problem.row["level"] for problem in problems}
    assert levels == dict(zip("123456", [None, None, "x", "y", None, None], strict=True))


def test_types_that_go_together_in_no_way(tmp_path):
    """Of a column that nobody reads they do no harm."""
    (tmp_path / "parts").mkdir()
    numbered(tmp_path / "parts" / "0.parquet", ["1", "2"], other=[1, 2])
    numbered(tmp_path / "parts" / "1.parquet", ["3", "4"], start=2, other=["c", "d"], further=[1, 2])
    problems = everything(problems_of(train_only(tmp_path / "parts", **EXACT)))
    assert {problem.answer for problem in problems} == set("1234")
    with pytest.raises(DataError, match="'other' is int64 in 0.parquet, string in 1.parquet: write it as one type"):
        problems_of(train_only(tmp_path / "parts", source={"columns": {"others": ["other"]}}, **EXACT))
    with pytest.raises(DataError, match="'further' is not in 0.parquet, int64 in 1.parquet"):
        problems_of(train_only(tmp_path / "parts", source={"columns": {"others": ["further"]}}, **EXACT))


def test_whole_numbers_and_floats_in_files_of_a_folder(tmp_path):
    (tmp_path / "parts").mkdir()
    numbered(tmp_path / "parts" / "0.parquet", [1, 2])
    numbered(tmp_path / "parts" / "1.parquet", [18.0, None, 2.5], start=2)
    with pytest.raises(DataError, match=r"the answer \(column answer\) is empty: row 4$"):
        problems_of(train_only(tmp_path / "parts", **EXACT))
    numbered(tmp_path / "parts" / "1.parquet", [18.0, 2.5], start=2)
    problems = everything(problems_of(train_only(tmp_path / "parts", **EXACT)))
    assert {problem.answer for problem in problems} == {"1", "2", "18", "2.5"}


def test_one_question_with_two_answers_is_named(tmp_path):
    rows = [
        {"question": "2 + 2?", "answer": "4"},
        {"question": "1?", "answer": "1"},
        {"question": "2  + 2? ", "answer": "5"},
    ]
    with pytest.raises(DataError, match="the same question, with another answer, as an earlier row: row 3 as 1"):
        problems_of(train_only(write_jsonl(tmp_path / "rows.jsonl", rows), held_out_rows=1, **EXACT))


def test_training_and_held_out_data_are_compared_by_their_questions(tmp_path):
    """However the answer is written, and with a blank at the end of the prompt; with the rows' names."""
    train = write_jsonl(tmp_path / "train.jsonl", [{"question": f"{n} + {n}?", "answer": 2 * n} for n in range(5)])
    rows = [
        {"question": "8 + 8?", "answer": "16"},
        {"question": "2 + 2? ", "answer": 4.5},
        {"question": "4 + 4?", "answer": "8.0"},
    ]
    held_out = write_jsonl(tmp_path / "held_out.jsonl", rows)
    with pytest.raises(
        DataError, match=r"2 problems are in both .*train.jsonl and .*held_out.jsonl \(rows 3 as 2, 5 as 3"
    ):
        problems_of(data(train={"path": train}, held_out={"path": held_out}, chat="never", **EXACT))
    several = {"held_out_rows": 1, "benchmarks": {"further": {"path": held_out}}}
    with pytest.raises(DataError, match="in both"):
        problems_of(data(train={"path": train}, chat="never", **several, **EXACT))


def test_a_question_is_asked_once_whatever_is_split_off(tmp_path):
    rows = [{"question": f"{n}?", "answer": f"{n}"} for n in range(8)] + [
        {"question": f"{n}? ", "answer": "x"} for n in range(8)
    ]
    with pytest.raises(DataError, match="with another answer, as an earlier row"):
        problems_of(train_only(write_jsonl(tmp_path / "rows.jsonl", rows), held_out_rows=4, **EXACT))
