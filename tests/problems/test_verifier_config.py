"""Verifiers in a configuration: what is refused, by field, and what the shipped ones are."""

from pathlib import Path

import pytest
import yaml

from npo_core.config import RunConfig, Source, load_config, paper_verifier, parse_config
from npo_core.config.verifier import ExactVerifier
from npo_core.errors import ConfigError, DataError
from npo_core.problems.load import load_problems

CONFIGS = Path(__file__).parents[2] / "deployments/configs"
DATA = {"kind": "data", "train": {"path": "train.jsonl"}, "held_out": {"path": "held_out.jsonl"}, "chat": "never"}
EXACT = {"name": "accuracy", "weight": 1, "verifier": {"kind": "exact"}}


def config(verifier: dict, **training) -> RunConfig:
    model = {"kind": "pretrained", "path": "x"}
    training = {"max_completion_tokens": 100, **training}
    return parse_config({"problems": {**DATA, "verifier": verifier}, "model": model, "training": training})


def weighted(*parts: dict) -> dict:
    return {"kind": "weighted", "parts": list(parts)}


def part(name: str, weight: float = 1, **verifier) -> dict:
    return {"name": name, "weight": weight, "verifier": verifier}


def test_what_is_left_out_is_exact():
    values = {"problems": DATA, "model": {"kind": "pretrained", "path": "x"}}
    assert parse_config(values).problems.verifier == ExactVerifier()


@pytest.mark.parametrize(
    ("verifier", "words"),
    [
        ({"kind": "oracle"}, ["problems.verifier", "oracle", "'exact'"]),
        ({"kind": "numeric", "relative_tolerance": -1}, ["problems.verifier.relative_tolerance = -1"]),
        ({"kind": "numeric", "tolerance": 1}, ["problems.verifier.tolerance: there is no such field"]),
        ({"kind": "math", "timeout": 0}, ["problems.verifier.timeout = 0"]),
        ({"kind": "choice", "letters": "abc"}, ["problems.verifier.letters = 'abc'"]),
        ({"kind": "format", "pattern": "("}, ["'('", "no regular expression", "missing )"]),
        ({"kind": "function"}, ["problems.verifier.path: a value is needed"]),
        ({"kind": "function", "path": "rewards.py"}, ["'rewards.py'", "package.module:name"]),
        ({"kind": "function", "path": "a-b:c"}, ["'a-b:c'", "package.module:name"]),
        ({"kind": "length", "max_tokens": 9, "buffer": 1}, ["problems.verifier", "length"]),
        (weighted(), ["problems.verifier.parts"]),
        (weighted(part("style", kind="format")), ["named style", "exactly one must be named accuracy"]),
        (weighted(EXACT, EXACT), ["named accuracy, accuracy", "exactly one must be named accuracy"]),
        (weighted(EXACT, part("a", kind="format"), part("a", kind="format")), ["a twice"]),
        (weighted(part("accuracy", kind="length", max_tokens=9, buffer=1)), ["says nothing of the accuracy"]),
        (weighted(EXACT, part("long", kind="length", max_tokens=9, buffer=10)), ["buffer = 10", "max_tokens = 9"]),
        (weighted(EXACT, part("deep", kind="weighted", parts=[])), ["problems.verifier.parts.1.verifier", "weighted"]),
        (weighted(EXACT, part("m", kind="math", timeout=-1)), ["problems.verifier.parts.1.verifier.timeout = -1"]),
        (
            weighted(EXACT, part("long", kind="length", max_tokens=200, buffer=50)),
            ["penalizes from 150 tokens", "training.max_completion_tokens = 100"],
        ),
    ],
)
def test_bad_settings_are_refused_by_field(verifier, words):
    with pytest.raises(ConfigError) as caught:
        config(verifier)
    for word in words:
        assert word in str(caught.value)
    assert "Value error" not in str(caught.value)


def test_the_shipped_paper_configuration_has_the_papers_reward():
    assert load_config(CONFIGS / "qwen3-vl-8b-paper.yaml").problems.verifier == paper_verifier(4096, 1024)


def test_a_sum_survives_a_file(tmp_path):
    file = tmp_path / "run.yaml"
    resolved = config(paper_verifier(100, 20).model_dump(mode="json"))
    file.write_text(yaml.safe_dump(resolved.model_dump(mode="json")))
    assert load_config(file) == resolved


def test_a_reference_that_cannot_be_compared_is_named_by_row(tmp_path):
    rows = ['{"question": "How many?", "answer": "12"}', '{"question": "How much?", "answer": "a lot"}']
    for name in ("train", "held_out"):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows if name == "train" else rows[:1]))
    files = {name: Source(path=str(tmp_path / f"{name}.jsonl")) for name in ("train", "held_out")}
    settings = config({"kind": "numeric"}).problems.model_copy(update=files)
    with pytest.raises(DataError, match="(?s)train.jsonl.*finds no number .column answer.: row 2"):
        load_problems(settings)


def test_forms_offer_the_kinds_as_tabs():
    field = RunConfig.model_json_schema()["$defs"]["DataProblems"]["properties"]["verifier"]
    assert len(field["anyOf"]) == 9 and "oneOf" not in field
