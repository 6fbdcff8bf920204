"""References that no verifier can compare with anything are refused when the problems are read, with their rows."""

import json

import pytest
from small_data import data, make_tokenizer, problems_of, write_jsonl

from npo_core.errors import ConfigError, DataError

MATH = {"kind": "math"}


def rows(*answers: str) -> list[dict]:
    return [{"question": f"What is number {i}?", "answer": answer} for i, answer in enumerate(answers)]


def settings(tmp_path, verifier, *answers, **fields):
    train = write_jsonl(tmp_path / "train.jsonl", rows(*answers))
    held_out = write_jsonl(tmp_path / "held_out.jsonl", [{"question": "What else?", "answer": answers[0]}])
    return data(train={"path": train}, held_out={"path": held_out}, verifier=verifier, chat="never", **fields)


@pytest.mark.parametrize(
    ("verifier", "good", "bad", "lacks"),
    [
        ({"kind": "numeric"}, ["72", "#### 72 clips", "\\boxed{\\frac12}", "$1,250"],
         ["2\\sqrt{3}", "(3, 4)", "x > 3", "about 5 or 6", "a lot", "3 or 4", "72.\\nBut 73?"], "no number"),
        ({"kind": "choice"}, ["B", "(c)", "\\boxed{\\text{A}}"], ["A or B", "42", "all of them"], "no letter"),
        ({"kind": "exact"}, ["#### x"], ["x", "####"], "no final answer"),
        (MATH, ["72", "2\\sqrt{3}", "(3, 4)", "x > 3", "none", "\\$24",
          "\\begin{pmatrix}1\\\\2\\end{pmatrix}", "50\\%"],
         ["about 5 or 6", "1/2x", "3 | 4", "\\frac{1}{", "see figure 3", ""], "no mathematics"),
        ({"kind": "all_of", "parts": [{"kind": "exact"}, MATH]}, ["#### 3"], ["#### 1/2x"], "no mathematics"),
    ],
    ids=["numeric", "choice", "exact", "math", "all_of"],
)  # fmt: skip
def test_they_are_refused_with_their_rows(tmp_path, verifier, good, bad, lacks):
    assert len(problems_of(settings(tmp_path, verifier, *good)).train) == len(good)
    bad = [answer for answer in bad if answer]
    with pytest.raises(DataError) as caught:
        problems_of(settings(tmp_path, verifier, *good, *bad))
    said = str(caught.value)
    assert "train.jsonl has rows that cannot be used" in said and lacks in said
    named = said.rpartition(": row")[2].lstrip("s ").partition(" (")[0].replace(", ...", "")
    assert named.split(", ") == [str(len(good) + 1 + i) for i in range(min(len(bad), 5))]


def test_mathematics_that_takes_forever_to_read_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    settings_ = settings(tmp_path, MATH | {"timeout": 2.0}, "3", "10000000000!")
    with pytest.raises(DataError, match=r"finds no form that is read in time: row 2"):
        problems_of(settings_)


def test_a_named_verifier_reads_its_own_rows(tmp_path):
    named = {"verifiers": {"maths": MATH}}
    sources = settings(tmp_path, {"kind": "numeric"}, "3", **named).model_dump()
    path = write_jsonl(tmp_path / "mixed.jsonl", [
        {"question": "a?", "answer": "2\\sqrt{3}", "by": "maths"}, {"question": "b?", "answer": "1/2x", "by": "maths"},
        {"question": "c?", "answer": "5", "by": ""},
    ])  # fmt: skip
    sources["train"] |= {"path": path, "columns": {"verifier": "by"}}
    with pytest.raises(DataError, match=r"no mathematics that can be read in one way: row 2$"):
        problems_of(data(**sources))


def test_a_format_of_special_tokens_is_refused(tmp_path):
    """They are left out when tokens become text, so that no completion would ever have the format."""
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})
    parts = [
        {"name": "accuracy", "weight": 0.9, "verifier": {"kind": "numeric"}},
        {"name": "format", "weight": 0.1, "verifier": {"kind": "format"}},
    ]
    asked = settings(tmp_path, {"kind": "weighted", "parts": parts}, "3").model_copy(update={"chat": "always"})
    with pytest.raises(ConfigError, match="<think>, </think>.*special tokens of this tokenizer"):
        problems_of(asked, tokenizer)
    assert problems_of(asked, make_tokenizer()).train


def test_json_numbers_are_references(tmp_path):
    (tmp_path / "train.jsonl").write_text(json.dumps({"question": "q?", "answer": 2.5}))
    held_out = write_jsonl(tmp_path / "held_out.jsonl", rows("3"))
    asked = data(
        train={"path": str(tmp_path / "train.jsonl")}, held_out={"path": held_out}, verifier=MATH, chat="never"
    )
    assert problems_of(asked).train[0].answer == "2.5"
