"""Fixtures of problems from data (made of what is in `small_data`), completions to be judged, and their judges."""

from __future__ import annotations

import pytest
from small_data import gsm8k, make_tokenizer, write_jsonl

from npo_core.config import Execution
from npo_core.problems import Completion, Problem
from npo_core.problems.judge import make_judge


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path):
    """Data sets are converted in a folder of the test."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


@pytest.fixture
def tokenizer():
    return make_tokenizer()


@pytest.fixture
def files(tmp_path):
    """Four training and two held-out rows in GSM8K's format: the paths of two files."""
    train = write_jsonl(tmp_path / "train.jsonl", gsm8k()[:4])
    return {"train": {"path": train}, "held_out": {"path": write_jsonl(tmp_path / "test.jsonl", gsm8k()[4:])}}


GSM8K = r"####\s*(.+)$"


def completion(text: str, answer: str = "right", *, tokens: int = 5, finished: bool = True, **row) -> Completion:
    return Completion(Problem("0" * 16, "What is it?", answer, 0, row), text, tokens, finished)


@pytest.fixture
def judge():
    """Makes the judge of a verifier; `execution` are fields of Execution."""

    def make(verifier, pattern: str = GSM8K, example=None, **execution):
        return make_judge(verifier, pattern, Execution(**execution), example)

    return make
