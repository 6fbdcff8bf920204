"""Generation of guidance with an engine and a judge that tell when they are asked."""

import threading
import time
import weakref
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest

from npo_core.engines import Generated
from npo_core.engines.rounds import InRounds
from npo_core.errors import VerifierError
from npo_core.guidance.cache import summary
from npo_core.guidance.generate import GuideSource, Judging, Request, Sampling, generate_guidance, side_by_side
from npo_core.guidance.shards import done_shards, merge_shards, read_shards, shard_totals
from npo_core.problems import Outcome, Problem, ProblemSet, Verdict
from npo_core.reporting.tables import guidance_table
from npo_core.timeline import Store

PROMPTS, CHUNK, SAMPLES = 10, 4, 6  # three chunks


class Script(InRounds):
    """An engine whose sample number i of a prompt is the token i, and what it was asked."""

    def __init__(self, on_generate=lambda: None):
        self.asked, self.on_generate = [], on_generate

    def generate(self, problems, *, samples, max_tokens, seed):
        start = sum(problems[0].id[:2] in ids for ids, _ in self.asked) * samples
        self.asked.append(([p.id[:2] for p in problems], start))
        self.on_generate()
        return [[Generated([start + i, 1], str(start + i), True) for i in range(samples)] for _ in problems]

    def score(self, problems, completions):
        return [np.zeros(len(ids), np.float32) for ids in completions]


def problem(number: int) -> Problem:
    return Problem(id=f"{number:02d}" + "0" * 14, prompt=str(number), answer=str(number % 7), difficulty=0)


def judge(completions):
    """A prompt is solved by the sample that its answer names; 6 is out of reach."""
    return [
        Verdict(Outcome.CORRECT, 1.0, 1.0) if c.text == c.problem.answer else Verdict(Outcome.WRONG, 0.0, 0.0)
        for c in completions
    ]


@pytest.fixture
def generate(tmp_path):
    def run(judge=judge, engine=None, name="run", rollback=None, opinion=None, **changes):
        engine = engine or Script()
        settings = {"samples": SAMPLES, "samples_per_round": 2, "keep": "first", "stop_at_first_correct": True}
        accept_fallback = changes.pop("accept_fallback", False)
        sampling = Sampling(chunk_prompts=CHUNK, max_tokens=4, seed=0, **settings | changes)
        problems = ProblemSet([problem(i) for i in range(PROMPTS)], [], judge)
        shards, told = Store(tmp_path / name), []
        generate_guidance(
            [Request(p, 0) for p in problems.train],
            [GuideSource("g", 5, lambda: engine)],
            sampling,
            Judging(problems, accept_fallback, opinion),
            shards,
            rollback=cache(rollback or (lambda: engine)),
            seed_of=lambda *parts: parts if parts[0] != "guidance" else parts[-1],
            progress=lambda done, total: told.append((done, total)),
        )
        return SimpleNamespace(shards=shards, asked=engine.asked, told=told)

    return run


def test_solved_prompts_leave_and_the_others_go_on(generate):
    run = generate()
    rows = {row.prompt_id[:2]: (int(row.token_ids[0]), row.samples) for row in read_shards(run.shards)}
    assert rows == {f"{i:02d}": (i % 7, 2 * (i % 7 // 2) + 2) for i in range(PROMPTS) if i != 6}
    assert shard_totals(run.shards).samples == sum(samples for _, samples in rows.values()) + SAMPLES
    assert [asked for asked, _ in run.asked if asked[-1] < "04"] == [["00", "01", "02", "03"], ["02", "03"]]
    assert run.told[-1] == (1000, 1000) and len(run.told) == 3


def guesses(completions):
    """Even samples are right by a guess alone, odd ones as they say."""
    return [v._replace(fallback=int(c.text) % 2 == 0) for v, c in zip(judge(completions), completions, strict=True)]


def test_what_is_right_by_a_guess_guides_only_where_that_is_accepted(generate):
    run = generate(guesses)
    assert sorted(row.prompt_id[:2] for row in read_shards(run.shards)) == ["01", "03", "05", "08"]
    totals = shard_totals(run.shards)
    assert (totals.guessed, totals.refused) == (5, 0)  # of the prompts whose answers are 0, 2, 4, 0 and 2
    run = generate(guesses, name="accepts", accept_fallback=True)
    assert shard_totals(run.shards).rows == 9 and shard_totals(run.shards).guessed == 0


def test_a_second_opinion_is_asked_of_what_is_right_and_what_it_refuses_is_counted(generate):
    asked = []

    def strict(completions):
        asked.extend(c.text for c in completions)
        return [
            Verdict(Outcome.WRONG, 0.0, 0.0) if c.text == "3" else v
            for c, v in zip(completions, judge(completions), strict=True)
        ]

    run = generate(opinion=strict)
    assert sorted(asked) == ["0", "0", "1", "1", "2", "2", "3", "4", "5"]
    assert sorted(row.prompt_id[:2] for row in read_shards(run.shards)) == [
        "00",
        "01",
        "02",
        "04",
        "05",
        "07",
        "08",
        "09",
    ]
    totals = shard_totals(run.shards)
    assert (totals.refused, totals.guessed, totals.rows) == (1, 0, 8)
    facts = dict(
        tokenizer="t", model="m", problems="p", reward_names=["accuracy"], eos_token_id=1, sampling={}, seconds=1.0
    )
    info = merge_shards(run.shards, run.shards.child("caches"), guides=[{"id": "g", "step": 5}], **facts)
    assert info.refused == 1
    table = guidance_table([summary(run.shards.child("caches").child(info.id))])
    assert ["trajectories refused by the second opinion", "1"] in table.rows


def test_answers_are_verified_while_the_next_chunk_generates(generate):
    """The first verdicts come only once a second chunk has been asked: without overlap that is never."""
    second = threading.Event()
    engine = Script()
    engine.on_generate = lambda: second.set() if len(engine.asked) == 2 else None

    def waits(completions):
        assert second.wait(20), "nothing was generated beside the verification"
        return judge(completions)

    run = generate(waits, engine)
    assert done_shards(run.shards) == [0, 1, 2]


def test_what_is_kept_is_scored_while_the_next_chunk_generates(generate):
    """The second chunk ends only once the first one is scored: scored between the two, that is never."""
    scored = threading.Event()

    class Tells(Script):
        def score(self, problems, completions):
            scored.set()
            return super().score(problems, completions)

    engine = Tells()
    engine.on_generate = lambda: len(engine.asked) != 2 or scored.wait(20) or pytest.fail("nothing was scored")
    run = generate(engine=engine, samples_per_round=SAMPLES)
    assert sorted(asked[0] for asked, _ in run.asked) == ["00", "04", "08"]
    assert done_shards(run.shards) == [0, 1, 2]


def test_models_are_loaded_before_anything_is_judged(generate):
    """Loading changes defaults of the whole process, which a model that scores meanwhile would meet."""
    seen, loads = [], []

    def judged(completions):
        seen.append(threading.current_thread())
        return judge(completions)

    def load():
        assert not seen and threading.current_thread() is threading.main_thread()
        loads.append(1)
        return Script()

    run = generate(judged, rollback=load, keep="closest")
    assert loads == [1] and threading.main_thread() not in seen
    assert len(list(read_shards(run.shards))) == PROMPTS - 1


def test_a_guides_model_is_gone_before_the_next_is_loaded(tmp_path):
    """The largest fill their GPU."""
    models = []

    def load():
        assert [model() for model in models] == [None] * len(models)
        engine = Script()
        models.append(weakref.ref(engine))
        return engine

    problems = ProblemSet([problem(i) for i in range(PROMPTS)], [], judge)
    generate_guidance(
        [Request(p, 0) for p in problems.train],
        [GuideSource(name, step, load) for step, name in enumerate("ab", 1)],
        Sampling(SAMPLES, 2, "first", True, CHUNK, max_tokens=4, seed=0),
        Judging(problems),
        Store(tmp_path),
        rollback=lambda: pytest.fail("asked without need"),
        seed_of=lambda *parts: parts if parts[0] != "guidance" else parts[-1],
    )
    assert len(models) == 2


def test_how_long_verdicts_take_changes_nothing(generate):
    def slow(completions):
        time.sleep(0.05 if completions[0].problem.id < "04" else 0.0)
        return judge(completions)

    quick, late = generate(name="quick"), generate(slow, name="late")
    assert sorted(late.asked) == sorted(quick.asked)
    assert list(read_shards(late.shards)) == list(read_shards(quick.shards))


def test_a_stage_that_broke_goes_on_with_what_it_had(generate):
    def breaks(completions):
        if completions[0].problem.id >= "08":
            raise VerifierError("no verdicts")
        return judge(completions)

    whole = generate(name="whole")
    with pytest.raises(VerifierError):
        generate(breaks)
    assert done_shards(Store(whole.shards.uri.replace("whole", "run"))) == [0, 1]
    again = generate()
    assert min(id_ for asked, _ in again.asked for id_ in asked) == "08"
    assert list(read_shards(again.shards)) == list(read_shards(whole.shards))


def test_so_many_are_under_way_and_what_is_given_late_holds_up_nobody():
    begun, both = [], threading.Barrier(2, timeout=20)

    def call(number):
        begun.append(number)
        if number < 2:
            both.wait()
        return number

    found = side_by_side(call, ((number,) for number in range(8)), 2)
    first = next(found)
    for _ in range(200):  # both threads go on while nobody takes anything
        if len(begun) == 5:
            break
        time.sleep(0.05)
    assert sorted(begun) == [0, 1, 2, 3, 4]
    assert sorted([first, *found]) == list(range(8))


def test_where_one_fails_the_others_are_given_and_no_further_ones_begin():
    begun, failed = [], threading.Event()

    def call(number):
        begun.append(number)
        if number == 1:
            failed.set()
            raise VerifierError("no verdicts")
        assert failed.wait(20)
        return number

    found, given = side_by_side(call, ((number,) for number in range(100)), 2), []
    with pytest.raises(VerifierError):
        given.extend(found)
    assert 0 in given
    assert len(begun) < 100
