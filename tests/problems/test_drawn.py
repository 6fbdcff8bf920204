"""Problems that Reasoning Gym draws and scores, and tasksets of `verifiers` where that library is installed."""

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_data import make_tokenizer

from npo_core.config import Execution, RunConfig, parse_config
from npo_core.errors import ConfigError
from npo_core.problems import Completion, Outcome
from npo_core.problems.load import load_problems
from npo_core.stages.preflight import preflight
from npo_core.stages.problems import keep, kept_folder, read
from npo_core.stages.workspace import Workspace

NO_MODEL = "npo_core.stages.preflight.check_model"  # these tests have none
SUMS = {"name": "chain_sum", "levels": [0, 1]}


def config(tasks=(SUMS,), **problems) -> RunConfig:
    fields = {"kind": "reasoning-gym", "tasks": [*tasks], "train": 12, "held_out": 4, "chat": "never"} | problems
    return with_problems(fields)


def with_problems(fields: dict) -> RunConfig:
    model = {"kind": "pretrained", "path": str(Path(__file__).parent)}
    training = {"prompts_per_step": 4, "group_size": 4, "micro_batch": 4}
    return parse_config({"model": model, "problems": fields, "training": training}, "test")


def drawn(config: RunConfig, tokenizer=None):
    return load_problems(config.problems, Execution(verifier_workers=1), tokenizer)


@pytest.fixture
def look(monkeypatch):
    """The one look of all commands, but for the model."""
    monkeypatch.setattr(NO_MODEL, lambda *_, **__: None)
    return lambda config: preflight(config, hub=False, weights=False)


@pytest.fixture(scope="module")
def problems():
    return drawn(config())


def judged(problems, text: str, number: int = 0, finished: bool = True):
    return problems.judge([Completion(problems.train[number], text, 5, finished)])[0]


def test_levels_take_turns_and_no_question_comes_twice(problems):
    assert [p.difficulty for p in problems.train] == [0, 1] * 6 and len(problems.held_out) == 4
    asked = [p.prompt for p in [*problems.train, *problems.held_out]]
    assert len(set(asked)) == 16 and all("<answer>" in prompt and "arithmetic problem" in prompt for prompt in asked)


def test_more_training_problems_change_no_held_out_one_and_no_earlier_one(problems):
    more = drawn(config(train=20))
    assert more.held_out == problems.held_out and more.train[:12] == problems.train
    assert drawn(config(seed=2)).held_out != problems.held_out


def test_a_task_that_hashes_strings_is_drawn_alike_in_every_process(monkeypatch):
    """`ransom_note` asks in the order of a set: without a fixed hash seed each process draws another one."""
    asked = []
    for seed in ("1", "2"):
        monkeypatch.setenv("PYTHONHASHSEED", seed)
        asked.append([p.prompt for p in drawn(config([{"name": "ransom_note"}])).train])
    assert asked[0] == asked[1]


def test_the_library_scores_what_stands_in_the_tags_after_the_thoughts(problems):
    right = problems.train[1].answer
    wrong = str(int(right) + 1)
    assert judged(problems, f"<answer>{right}</answer>", 1).correct
    assert judged(problems, f"<think><answer>0</answer></think>so <answer>\n{right} </answer>", 1).correct
    last = judged(problems, f"<answer>{right}</answer> no, <answer>{wrong}</answer>", 1)
    assert last.outcome is Outcome.WRONG and last.accuracy < 1
    assert judged(problems, f"It is {right}.", 1).outcome is Outcome.UNPARSABLE
    assert judged(problems, right, 1)[::3] == (Outcome.CORRECT, True)  # nothing but the answer: a fallback
    assert judged(problems, f"<answer>{right}</answer>", 1, finished=False).outcome is Outcome.WRONG


def test_what_a_scorer_raises_for_an_answer_without_form_is_no_outage():
    found = drawn(config([{"name": "prime_factorization"}]))
    assert judged(found, "<answer>nonsense</answer>").outcome is Outcome.UNPARSABLE
    assert judged(found, f"<answer>{found.train[0].answer}</answer>").correct


def test_a_run_keeps_them_by_content(tmp_path, problems, monkeypatch):
    settings, workspace = config().problems, Workspace(tmp_path)
    store = kept_folder(settings, workspace, "tokenizer")
    keep(problems, store)
    monkeypatch.setattr("npo_core.problems.draw.draw", lambda *_: pytest.fail("drawn again"))
    assert read(store, "train") == list(problems.train) and read(store, "held_out") == list(problems.held_out)


def test_a_weighted_reward_has_the_library_as_its_accuracy():
    parts = [
        {"name": "accuracy", "weight": 0.9, "verifier": {"kind": "task"}},
        {"name": "format", "weight": 0.1, "verifier": {"kind": "format", "pattern": "^so "}},
    ]
    found = drawn(config(verifier={"kind": "weighted", "parts": parts}))
    verdict = judged(found, f"so <answer>{found.train[0].answer}</answer>")
    assert verdict.accuracy == 1 and verdict.reward == pytest.approx(1)


def test_a_chat_template_renders_them():
    tokenizer = make_tokenizer()
    prompt = drawn(config(chat="auto"), tokenizer).train[0].prompt
    assert prompt.startswith("<|system|>Reason step by step") and prompt.endswith("<|assistant|>")


REFUSED = [
    ({"name": "chain_sums"}, "chain_sums is no task of Reasoning Gym: name one of chain_sum"),
    ({"name": "chain_sum", "levels": [99]}, "levels of chain_sum has 99: use levels from 0 to"),
    ({"name": "acre", "levels": [1]}, "acre has no levels: leave levels out"),
    ({"name": "chain_sum", "config": {"terms": 3}}, "has no setting terms: use one of allow_negation"),
    ({"name": "chain_sum", "config": {"min_terms": 0}}, "chain_sum cannot be made .*change its config"),
    ({"name": "rubiks_cube"}, "rubiks_cube has no reference answers in the library: name another task"),
]


@pytest.mark.parametrize("task, said", REFUSED, ids=[said.split(":")[0] for _, said in REFUSED])
def test_the_one_look_of_all_commands_refuses_what_cannot_be_drawn(look, task, said):
    with pytest.raises(ConfigError, match=f"problems.tasks: .*{said}"):
        look(config([task]))


def test_the_remedy_of_a_task_without_enough_problems_works():
    few = {"name": "chain_sum", "levels": [0], "config": {"max_terms": 2, "min_terms": 2, "max_digits": 1}}
    with pytest.raises(ConfigError, match="draws no more different problems .* ask for fewer, or for more levels"):
        drawn(config([few], train=1000))
    assert len(drawn(config([few], train=12)).train) == 12


def test_a_task_that_does_not_survive_being_kept_is_refused():
    with pytest.raises(ConfigError, match="arc_agi does not accept its own answer after it was kept"):
        drawn(config([{"name": "arc_agi"}]))


def test_seed_and_size_are_not_the_tasks_to_set():
    with pytest.raises(ConfigError, match="config of chain_sum has seed, which problems.seed, train"):
        config([{"name": "chain_sum", "config": {"seed": 3}}])


def test_rows_of_data_have_no_task_that_could_score_them():
    source = {"kind": "data", "train": {"path": "a.jsonl"}, "held_out_rows": 1}
    with pytest.raises(ConfigError, match="a verifier is of kind task, but rows of problems.kind = data"):
        with_problems(source | {"verifier": {"kind": "task"}})


def test_a_scorer_that_hangs_is_killed(monkeypatch, tmp_path):
    """The library in a worker: its module is replaced by one that sleeps over one answer."""
    code = "import time\nfrom npo_core.problems import gym\nold = gym.score\n"
    code += "gym.score = lambda task, said, right: time.sleep(600) if said == 'hang' else old(task, said, right)\n"
    (tmp_path / "sitecustomize.py").write_text(code)
    found = drawn(config(verifier={"kind": "task", "timeout": 2}))
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    problem, started = found.train[0], time.monotonic()
    texts = ["<answer>hang</answer>", *[f"<answer>{problem.answer}</answer>"] * 30]
    verdicts = found.judge([Completion(problem, text, 3, True) for text in texts])
    assert verdicts[0].outcome is Outcome.TIMEOUT and all(v.correct for v in verdicts[1:])
    assert time.monotonic() - started < 300


def test_without_the_library_the_command_says_what_to_install(look, tmp_path, monkeypatch):
    (tmp_path / "reasoning_gym.py").write_text("raise ImportError")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with pytest.raises(ConfigError, match=r"pip install 'npo-core\[reasoning-gym\]'"):
        look(config([{"name": "chain_sum", "levels": [2]}]))


needs_verifiers = pytest.mark.skipif(importlib.util.find_spec("verifiers") is None, reason="verifiers is not installed")
TASKSET = """
import verifiers.v1 as vf

class SumsData(vf.TaskData):
    answer: str

class SumsTask(vf.Task[SumsData]):
    NEEDS_CONTAINER = {container}

    @vf.reward(weight={weight})
    async def right(self, trace: vf.Trace) -> float:
        return float(trace.last_reply.strip().endswith(self.data.answer))

class SumsConfig(vf.TasksetConfig):
    start: int = 0

class SumsTaskset(vf.Taskset[SumsTask, SumsConfig]):
    def load(self):
        for n in range(self.config.start, self.config.start + 30):
            yield SumsTask(SumsData(prompt=f"What is {{n}} + {{n}}?", answer=str(2 * n)), self.config.task)

__all__ = ["SumsTaskset"]
"""


@pytest.fixture
def taskset(tmp_path, monkeypatch):
    """Writes a taskset, whose name differs from test to test, and gives a configuration with it."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])

    def made(container=False, weight=1.0, **problems):
        (tmp_path / "sums_v1.py").write_text(TASKSET.format(container=container, weight=weight))
        fields = {"kind": "verifiers", "taskset": "sums-v1", "train": 12, "held_out": 4, "chat": "never"}
        return with_problems(fields | {"config": {"task": {}}} | problems)

    return made


@needs_verifiers
def test_a_taskset_gives_problems_and_its_rewards_are_the_verdict(look, taskset):
    look(taskset())
    found = drawn(taskset())
    assert [p.prompt for p in found.held_out] == [f"What is {n} + {n}?" for n in range(4)] and len(found.train) == 12
    assert judged(found, "It is 8").correct and judged(found, "It is 9").outcome is Outcome.WRONG
    apart = drawn(taskset(held_out_config={"start": 100}))
    assert apart.held_out[0].prompt == "What is 100 + 100?" and apart.train[0].prompt == "What is 0 + 0?"


@needs_verifiers
def test_what_is_no_single_turn_taskset_is_refused(look, taskset, monkeypatch):
    cases = [
        (taskset(taskset="nowhere"), "nowhere cannot be opened .*install its package"),
        (taskset(config={"begin": 3}), "sums-v1 cannot be opened .*check problems.config"),
        (taskset(container=True), "sums-v1 is not single-turn: its tasks need a container"),
    ]
    for settings, said in cases:
        with pytest.raises(ConfigError, match=f"problems.taskset = {said}"):
            look(settings)
    monkeypatch.setenv("NPO_ALLOWED_MODULES", "sums_v1")
    assert len(drawn(taskset()).train) == 12
    plugged = {"task": {"rewards": {"mine": {"fn": "os.path:exists"}}}}
    with pytest.raises(ConfigError, match="names os.path:exists comes from the module os.path, which this"):
        look(taskset(config=plugged))
    monkeypatch.setenv("NPO_ALLOWED_MODULES", "others")
    with pytest.raises(ConfigError, match="sums-v1 comes from the module sums_v1, which this machine does not allow"):
        drawn(taskset())


@needs_verifiers
def test_a_reward_that_is_no_accuracy_is_refused(taskset):
    found = drawn(taskset(weight=3.0))
    with pytest.raises(ConfigError, match="sums-v1 gave a reward of 3, but it is the accuracy.* lower the weights"):
        judged(found, "It is 8")


@pytest.mark.skipif(importlib.util.find_spec("verifiers") is not None, reason="verifiers is installed")
def test_without_verifiers_the_command_says_what_to_install(look, taskset):
    with pytest.raises(ConfigError, match=r"pip install 'npo-core\[verifiers\]'"):
        preflight(taskset(), hub=False, weights=False)


def test_a_run_trains_on_them_and_evaluates(tmp_path):
    from npo_core.models.tiny import make_tiny

    make_tiny("qwen3", tmp_path / "model")
    file = tmp_path / "gym.yaml"
    file.write_text(
        f"model: {{kind: pretrained, path: {tmp_path / 'model'}}}\n"
        "problems: {kind: reasoning-gym, tasks: [{name: chain_sum, levels: [0]}], train: 8, held_out: 4, chat: never}\n"
        "training: {steps: 2, prompts_per_step: 2, group_size: 2, micro_batch: 4, max_completion_tokens: 8, "
        "snapshot_every: 1, warmup_steps: 0}\n"
        "evaluation: {samples: 1}\nbootstrap: {scout_steps: 1}\n"
        "execution: {device: cpu, threads: 1, verifier_workers: 1}\n"
    )
    command = [sys.executable, "-m", "npo_core", "run", "grpo", "--local", "--config", str(file)]
    done = subprocess.run(
        [*command, "--workspace", str(tmp_path / "run")],
        capture_output=True,
        text=True,
        env=os.environ | {"HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    kept = Workspace(tmp_path / "run").store
    (key,) = kept.list("problems")
    assert len(read(kept.child(f"problems/{key}"), "train")) == 8
    assert (tmp_path / "run/report/report.md").read_text().count("reasoning-gym") >= 1
