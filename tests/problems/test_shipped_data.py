"""What is shipped for problems from data: GSM8K as a preset, and the declared sources."""

from pathlib import Path

import yaml
from small_data import gsm8k, make_tokenizer, problems_of, write_jsonl

from npo_core.config import load_config
from npo_core.problems import Completion, Outcome
from npo_core.problems.sources import kind_of

ROOT = Path(__file__).parents[2]
PAPER = ROOT / "deployments/configs/qwen3-vl-8b-paper.yaml"
BENCHMARKS = {"mmmu-pro", "mathvista", "mathvision", "zerobench", "wemath", "mmbench", "mmstar", "mathverse"}


def test_gsm8k_works_on_local_files(files):
    local = {
        "problems.train": files["train"],
        "problems.held_out": files["held_out"],
        "problems.max_prompt_tokens": None,
    }
    config = load_config(ROOT / "deployments/configs/qwen3-0.6b-gsm8k-1gpu.yaml", local)
    problems = problems_of(config.problems, make_tokenizer())
    assert [len(problems.train), len(problems.held_out)] == [4, 2]
    assert problems.train[0].prompt.startswith("<|system|>Reason step by step")
    assert gsm8k()[1]["question"] in problems.train[1].prompt
    answers = {"So #### 2400": Outcome.CORRECT, "#### 24": Outcome.WRONG, "2,400": Outcome.UNPARSABLE}
    verdicts = problems.judge([Completion(problems.train[1], text, tokens=5, finished=True) for text in answers])
    assert [verdict.outcome for verdict in verdicts] == list(answers.values())


def test_gsm8k_by_hub_id(monkeypatch):
    config = load_config(ROOT / "deployments/configs/qwen3-0.6b-gsm8k-1gpu.yaml").problems
    assert kind_of(config.train) == kind_of(config.held_out) == "hub"
    assert (config.train.path, config.held_out.split) == ("openai/gsm8k", "test")


def test_the_declared_sources_parse():
    problems = load_config(PAPER).problems
    assert set(problems.benchmarks) == BENCHMARKS and "MMFineReason" in problems.train.path
    for name, source in problems.sources.items():
        assert kind_of(source) == "hub" and source.split and source.columns.images, name
        assert all(f"{{{column}}}" in source.prompt_template for column in source.columns.others), name


def test_a_benchmark_row_becomes_a_prompt(tmp_path, tokenizer):
    """MMBench's template on a row of our own, without its image."""
    fields = yaml.safe_load(PAPER.read_text())["problems"]["benchmarks"]["mmbench"]
    row = {"index": 1, "hint": None, "question": "Which?", "A": "one", "B": "two", "C": "", "D": None, "answer": "B"}
    fields |= {
        "path": write_jsonl(tmp_path / "rows.jsonl", [row, row | {"index": 2, "question": "What?"}]),
        "split": None,
    }
    fields["columns"] |= {"images": []}
    config = {
        "kind": "data",
        "train": fields,
        "verifiers": {"choice": {"kind": "choice"}},
        "held_out_rows": 1,
        "answer_pattern": "([A-D])",
        "chat": "never",
    }
    from npo_core.config import DataProblems

    problems = problems_of(DataProblems.model_validate(config), tokenizer)
    prompts = {problem.prompt for problem in [*problems.train, *problems.held_out]}
    assert "\nWhich?\nA. one\nB. two\nC. \nD. " in prompts
