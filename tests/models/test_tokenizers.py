"""Tokenizers that do not quite fit their model, and seeds that libraries do not take."""

import json

import pytest
from transformers import AutoTokenizer

from npo_core.config import Injection
from npo_core.engines.transformers import TransformersEngine
from npo_core.errors import ConfigError
from npo_core.models.load import load_processor
from npo_core.models.tiny import make_tiny
from npo_core.problems import Problem
from npo_core.seeds import library_seed
from npo_core.stages.specs import TrainSpec
from npo_core.timeline import Branch
from npo_core.training.build import grpo_config
from tests.models.conftest import TRAINING, Run

PROBLEMS = [Problem("0" * 16, "1 + 1 = ?", "2", 0), Problem("1" * 16, "a longer question: 12 + 30 = ?", "42", 0)]


@pytest.fixture
def folder(tmp_path):
    make_tiny("qwen3", tmp_path / "model")
    return tmp_path / "model"


def asking(question: str):
    """Makes rows that ask a question with a number in it."""

    def rows(folder):
        folder.mkdir(exist_ok=True)
        return [{"question": question.format(n), "answer": "x"} for n in range(12)]

    return rows


def change(folder, **fields):
    """Other fields in the tokenizer's configuration; None takes one away."""
    file = folder / "tokenizer_config.json"
    fields |= {"tokenizer_class": "PreTrainedTokenizerFast"}  # Qwen's class has tokens of its own by default
    values = {name: value for name, value in (json.loads(file.read_text()) | fields).items() if value is not None}
    file.write_text(json.dumps(values))


def completions(folder, seed=3):
    engine = TransformersEngine(folder)
    answers = engine.generate(PROBLEMS, samples=3, max_tokens=6, seed=seed)
    drawn = [completion.token_ids for given in answers for completion in given]
    asked = [problem for problem in PROBLEMS for _ in range(3)]
    return drawn, [row.tolist() for row in engine.score(asked, drawn)]


def test_without_a_pad_token_the_end_token_pads(folder):
    """In sampling and in scores of prompts of different lengths, and through the stages."""
    expected = completions(folder)
    change(folder, pad_token=None)
    assert AutoTokenizer.from_pretrained(folder).pad_token is None
    tokenizer = load_processor(folder)
    assert tokenizer.pad_token == tokenizer.eos_token
    assert completions(folder) == expected


def test_a_run_without_a_pad_token(folder, tmp_path):
    change(folder, pad_token=None)
    run = Run(tmp_path, folder, rows=asking("{}?"))
    base = run.base()
    scout = run.train("scout", base)
    assert run.guide(scout, base).rows > 0
    assert run.evaluate(base)[0].problems == 4


def test_neither_pad_nor_end_token(folder):
    change(folder, pad_token=None, eos_token=None)
    with pytest.raises(ConfigError, match="neither a pad nor an end token.*set eos_token in its tokenizer_config.json"):
        load_processor(folder)


def test_a_tokenizer_that_is_larger_than_the_embedding(folder, tmp_path):
    """Only what is used need be there: Gemma 3's tokenizer has a token of images more than its text model."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = len(tokenizer)
    tokenizer.add_tokens(["<extra>"])
    tokenizer.save_pretrained(folder)
    words = f"writes '<extra>' as id {rows}, and the model's embedding has {rows} rows: take the tokenizer"
    Run(tmp_path / "fine", folder, rows=asking("{}?")).base()
    with pytest.raises(ConfigError, match=words):
        Run(tmp_path / "run", folder, rows=asking("<extra> {}?")).base()
    engine = TransformersEngine(folder)
    asked = [Problem("0" * 16, "What is <extra>?", "2", 0)]
    for ask in (lambda: engine.generate(asked, samples=1, max_tokens=2, seed=1), lambda: engine.score(asked, [[1]])):
        with pytest.raises(ConfigError, match=words):
            ask()
    change(folder, pad_token="<extra>")
    with pytest.raises(ConfigError, match=words):
        load_processor(folder)


def test_seeds_of_any_size(folder, tmp_path):
    """Those below 2**32 stay what they were; larger ones are different from each other."""
    assert [library_seed(seed) for seed in (0, 7, 2**32 - 1)] == [0, 7, 2**32 - 1]
    large = [2**32, 2**32 + 1, 2**64 + 1]
    assert len({library_seed(seed) for seed in large} - {0, 1}) == 3
    assert completions(folder, 2**32) != completions(folder, 2**32 + 1) != completions(folder, 1)
    make_tiny("qwen3", tmp_path / "large", seed=2**40)
    assert grpo_config(TRAINING, seed=2**33, output=tmp_path, device="cpu").seed < 2**32


def trained(run, seed: int):
    """The snapshots of a segment of a run with a seed."""
    base = run.base()
    run.workspace.timeline.add_branch(Branch(name=f"b{seed}", parent=base, parent_step=0, reason="test"))
    spec = TrainSpec(
        training=TRAINING, injection=Injection(), seed=seed, sampling_seed=seed, branch=f"b{seed}", start=base, until=2,
        **run.common,
    )  # fmt: skip
    return run.workspace.timeline.segment(run(spec).segment).snapshots


def test_a_run_with_a_large_seed(folder, tmp_path):
    run = Run(tmp_path, folder, rows=asking("{}?"))
    first, second = (trained(run, seed) for seed in (2**32, 2**32 + 1))
    assert first[2] != second[2]
