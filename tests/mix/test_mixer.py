"""The parts of a mixer, told batches by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pytest
from pydantic import ValidationError

from npo_core.config import Injection, Mix, RunConfig
from npo_core.errors import DataError
from npo_core.guidance.trajectory import Trajectory
from npo_core.mix import Batch, Group, Mixer
from npo_core.mix.prompts import draw_weighted
from npo_core.seeds import derive_seed

IDS = [f"{i:016x}" for i in range(40)]
STORE = {"max_pass_rate": 0.25, "drop_above": 0.5}


def right(prompt_id: str, step: int = 1, tokens: Sequence[int] = (5, 6, 2), logprob: float = -0.5) -> Trajectory:
    return Trajectory(
        prompt_id=prompt_id,
        token_ids=np.array(tokens, np.int32),
        logprobs=np.full(len(tokens), logprob, np.float32),
        rewards=np.ones(1, np.float32),
        outcome="correct",
        guide="policy",
        guide_step=step,
        sample=0,
        samples=8,
        seed=1,
    )


def mixer(**parts) -> Mixer:
    return Mixer(Mix(**parts), prompt_ids=IDS, group_size=8, seed=3)


def batch(step: int, rates: dict[str, float], solves: Sequence[str] = (), asked: list | None = None) -> Batch:
    """A batch in which these prompts had these pass rates; extra samples solve some of them."""

    def draw(prompt_ids: Sequence[str]) -> list[Group]:
        if asked is not None:
            asked.append(list(prompt_ids))
        return [Group(id_, 0.0, [right(id_, step)] if id_ in solves else []) for id_ in prompt_ids]

    groups = [Group(id_, rate, [right(id_, step)] if rate > 0 else []) for id_, rate in rates.items()]
    return Batch(step, groups, 8, draw, lambda *parts: derive_seed("test", step, *parts))


def told(mixed: Mixer, step: int, rates: dict[str, float], solves: Sequence[str] = ()) -> None:
    """A batch whose dead groups were offered to the sources, and then learned."""
    seen = batch(step, rates, solves)
    mixed.learn(seen, mixed.find([id_ for id_, rate in rates.items() if rate == 0], seen))


# --- success store and replay --------------------------------------------------------------------------------------


def test_the_store_takes_rare_successes_and_drops_what_is_solved():
    mixed = mixer(store=STORE, sources=[{"kind": "extra-samples"}])
    told(mixed, 1, {IDS[0]: 0.125, IDS[1]: 0.25, IDS[2]: 0.375, IDS[3]: 0.0, IDS[4]: 0.0}, solves=[IDS[3]])
    assert set(mixed.store.prompts) == {IDS[0], IDS[1], IDS[3]}
    told(mixed, 2, {IDS[0]: 0.5, IDS[1]: 0.625, IDS[3]: float("nan")})
    assert set(mixed.store.prompts) == {IDS[0], IDS[3]}  # 0.5 is not above 0.5
    assert mixed.store.prompts[IDS[0]].pass_rate == 0.5
    assert mixed.store.prompts[IDS[0]].newest.guide_step == 1  # not rare any more: nothing new is stored
    assert mixed.store.prompts[IDS[3]].pass_rate == 0.0  # an unknown rate tells nothing


def test_the_store_is_bounded_by_last_visit():
    mixed = mixer(store=STORE | {"size": 2, "keep": 2})
    for step, id_ in enumerate([IDS[0], IDS[1], IDS[0], IDS[2]], 1):
        told(mixed, step, {id_: 0.125})
    assert list(mixed.store.prompts) == [IDS[0], IDS[2]]
    assert [row.guide_step for row in mixed.store.prompts[IDS[0]].completions] == [1, 3]


def test_replay_takes_what_is_rare_young_and_not_in_the_batch():
    mixed = mixer(store=STORE, replay={"rows": 8, "weight": 2, "max_age": 10})
    told(mixed, 1, {IDS[0]: 0.125})
    told(mixed, 5, {IDS[1]: 0.25, IDS[2]: 0.125, IDS[3]: 0.125})
    told(mixed, 6, {IDS[2]: 0.5})
    rows = mixed.replayed(12, asked=[IDS[3]])
    assert [row.trajectory.prompt_id for row in rows] == [IDS[1]]  # 0 is too old, 2 no longer rare, 3 asked now
    assert rows[0].weight == pytest.approx(2 * 2.4749, abs=1e-3)  # c x the advantage of one right among eight
    assert {row.trajectory.prompt_id for row in mixed.replayed(11, asked=[])} == {IDS[0], IDS[1], IDS[3]}


def test_replay_draws_at_most_so_many_and_the_same_again():
    mixed = mixer(store=STORE, replay={"rows": 4})
    told(mixed, 1, dict.fromkeys(IDS[:20], 0.125))
    drawn = [[row.trajectory.prompt_id for row in mixed.replayed(step, [])] for step in (2, 2, 3)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) == 4


# --- sources -------------------------------------------------------------------------------------------------------


def test_extra_samples_stop_at_the_first_right_one():
    mixed, asked = mixer(sources=[{"kind": "extra-samples", "chunks": 3}]), []
    seen = batch(1, dict.fromkeys(IDS[:3], 0.0), solves=[IDS[1]], asked=asked)
    found = mixed.find(IDS[:3], seen)
    assert {id_: (name, len(rows)) for id_, (name, rows) in found.items()} == {IDS[1]: ("extra-samples", 1)}
    assert asked == [IDS[:3], [IDS[0], IDS[2]], [IDS[0], IDS[2]]]
    assert seen.counts["prompts_rescued"] == 1


def test_extra_samples_begin_after_their_update():
    mixed, asked = mixer(sources=[{"kind": "extra-samples", "from_step": 4}]), []
    for step in (4, 5):
        mixed.find(IDS[:1], batch(step, {IDS[0]: 0.0}, asked=asked))
    assert asked == [IDS[:1]]


def test_a_budget_goes_to_who_is_likeliest():
    """16 samples are two prompts; by history the one that was right most often, and one never seen."""
    mixed, asked = mixer(sources=[{"kind": "extra-samples", "chunks": 2, "budget": 16, "choice": "history"}]), []
    told(mixed, 1, {IDS[0]: 0.0, IDS[1]: 0.5, IDS[2]: 0.125})
    mixed.find(IDS[:4], batch(2, dict.fromkeys(IDS[:4], 0.0), asked=asked))
    assert asked == [[IDS[1], IDS[3]]]


def test_sources_are_asked_in_turn():
    mix = Mix(store=STORE, sources=[{"kind": "past-successes"}, {"kind": "extra-samples"}])
    mixed = Mixer(mix, guidance={IDS[0]: right(IDS[0])})
    told(mixed, 1, {IDS[1]: 0.125})
    found = mixed.find(IDS[:3], batch(2, dict.fromkeys(IDS[:3], 0.0), solves=IDS[:3]))
    assert [found[id_][0] for id_ in IDS[:3]] == ["cache", "past-successes", "extra-samples"]


def test_a_prompt_with_too_few_trajectories_takes_none():
    mixed = mixer(store=STORE | {"keep": 2}, sources=[{"kind": "past-successes"}])
    told(mixed, 1, {IDS[0]: 0.125, IDS[1]: 0.125})
    told(mixed, 2, {IDS[0]: 0.125})
    found = mixed.find(IDS[:2], batch(3, dict.fromkeys(IDS[:2], 0.0)), slots=2)
    assert [row.guide_step for row in found[IDS[0]][1]] == [2, 1]
    assert list(found) == [IDS[0]]


@pytest.mark.parametrize(
    ("row", "words"), [("a text", "a str"), (right(IDS[0], tokens=()), "0 tokens"), (None, "a NoneType")]
)
def test_what_a_source_may_not_give_is_named(row, words):
    class Wrong:
        name = "mine"

        def find(self, wanted, seen):
            return {id_: [row] for id_ in wanted}

    mixed = mixer()
    mixed.sources = [Wrong()]
    with pytest.raises(DataError, match=f"Source mine.*{words}"):
        mixed.find(IDS[:1], batch(1, {IDS[0]: 0.0}))


# --- prompts -------------------------------------------------------------------------------------------------------


def test_the_mistake_pool_fills_the_end_of_a_batch():
    mixed = mixer(prompts=[{"kind": "mistake-pool", "share": 0.5, "from_step": 1}])
    told(mixed, 1, dict.fromkeys(IDS[:3], 0.0) | {IDS[3]: 0.125, IDS[4]: 1.0})
    assert mixed.choose(1, IDS[8:16]) == IDS[8:16]  # not yet
    chosen = mixed.choose(2, IDS[8:16])
    assert chosen[:5] == IDS[8:13]
    assert set(chosen[5:]) == set(IDS[:3])
    assert mixed.choose(2, [*IDS[8:15], IDS[0]])[-3:].count(IDS[0]) == 1  # asked once, not twice
    told(mixed, 2, {IDS[0]: 0.5, IDS[1]: 0.625})
    assert set(mixed.prompts[0].pool) == {IDS[0], IDS[2]}


def test_a_rescued_prompt_leaves_the_pool_for_the_store():
    mixed = mixer(store=STORE, sources=[{"kind": "extra-samples"}], prompts=[{"kind": "mistake-pool"}])
    told(mixed, 1, {IDS[0]: 0.0, IDS[1]: 0.0, IDS[2]: 0.125}, solves=[IDS[0]])
    assert (set(mixed.store.prompts), set(mixed.prompts[0].pool)) == ({IDS[0], IDS[2]}, {IDS[1]})


def test_the_pools_share_grows():
    mixed = mixer(prompts=[{"kind": "mistake-pool", "share": 0.5, "grow_steps": 4}])
    told(mixed, 1, dict.fromkeys(IDS[:8], 0.0))
    filled = [sum(id_ in IDS[:8] for id_ in mixed.choose(step, IDS[8:16])) for step in (1, 2, 4, 9)]
    assert filled == [1, 2, 4, 4]


def test_the_review_queue_asks_in_turn_and_lets_go_of_what_is_still_solved():
    mixed = mixer(
        prompts=[{"kind": "review-queue", "share": 0.25, "from_step": 0, "every": 2, "probability": 1.0, "size": 3}]
    )
    told(mixed, 1, dict.fromkeys(IDS[:4], 1.0))
    assert list(mixed.prompts[0].queue) == IDS[:3]
    assert mixed.choose(2, IDS[8:16])[-2:] == IDS[:2]
    told(mixed, 2, {IDS[0]: 1.0, IDS[1]: 0.875})
    assert list(mixed.prompts[0].queue) == [IDS[2], IDS[1]]
    assert mixed.choose(3, IDS[8:16]) == IDS[8:16]  # every second update


def test_success_buckets_begin_when_batches_are_solved_and_prefer_the_middle():
    store = {"max_pass_rate": 0.99, "drop_above": 0.99}
    mixed = mixer(store=store, prompts=[{"kind": "success-buckets", "share": 0.5}])
    told(mixed, 1, {IDS[0]: 0.25, IDS[1]: 0.375})
    assert mixed.choose(2, IDS[8:16]) == IDS[8:16]  # 0.3125 is not above 0.35
    told(mixed, 2, {IDS[0]: 0.5, IDS[1]: 0.5, IDS[2]: 0.125, IDS[3]: 0.5, IDS[4]: 0.5, IDS[5]: 0.5, IDS[6]: 0.5})
    counts = dict.fromkeys(IDS[:8], 0)
    for step in range(3, 203):
        for id_ in mixed.choose(step, IDS[8:16])[-4:]:
            counts[id_] += 1
    assert counts[IDS[2]] < 30 < 100 < min(counts[id_] for id_ in (IDS[0], IDS[1], IDS[3]))


def test_weighted_draws_follow_their_weights():
    import random

    first = [draw_weighted(["a", "b", "c"], [1, 2, 0], 1, random.Random(i))[0] for i in range(3000)]
    assert first.count("b") / 3000 == pytest.approx(2 / 3, abs=0.03)
    assert "c" not in first


def test_solved_prompts_rest_and_others_take_their_turn():
    mixed = mixer(prompts=[{"kind": "rest", "after": 2, "visits": 2}])
    for step in (1, 2):
        told(mixed, step, {IDS[0]: 1.0, IDS[1]: 0.875})
    for step in (3, 4):
        chosen = mixed.choose(step, IDS[:8])
        assert IDS[0] not in chosen
        assert chosen[1:] == IDS[1:8]
        assert chosen[0] in IDS[8:]
    assert mixed.choose(5, IDS[:8]) == IDS[:8]


def test_dynamic_sampling_asks_others_each_once():
    mixed = mixer(prompts=[{"kind": "dynamic-sampling"}])
    others = mixed.others(1, 0, IDS[:8], 5)
    assert len(set(others)) == 5
    assert not set(others) & set(IDS[:8])
    assert len(mixed.others(1, 0, IDS, 5)) == 0  # there are no others


# --- state ---------------------------------------------------------------------------------------------------------


def everything() -> Mixer:
    return mixer(
        store=STORE | {"keep": 2},
        replay={"rows": 3},
        sources=[{"kind": "past-successes"}, {"kind": "extra-samples", "choice": "bandit", "budget": 16}],
        prompts=[
            {"kind": "mistake-pool", "share": 0.25},
            {"kind": "review-queue", "share": 0.25, "from_step": 0, "every": 1, "probability": 0.5},
            {"kind": "success-buckets", "share": 0.25, "start_above": 0.1},
            {"kind": "rest", "after": 1},
        ],
    )


def play(mixed: Mixer, steps: range) -> list:
    """What a mixer decides in a course of batches that follows from the step alone."""
    seen = []
    for step in steps:
        asked = mixed.choose(step, [IDS[(step * 8 + i) % 40] for i in range(8)])
        rates = {id_: derive_seed("rate", step, id_) % 9 / 8 for id_ in asked}
        told(mixed, step, rates, solves=[id_ for id_ in asked if derive_seed("solves", step, id_) % 3 == 0])
        seen.append((asked, [row.trajectory.prompt_id for row in mixed.replayed(step, asked)]))
    return seen


@pytest.mark.parametrize("cut", [1, 4, 9])
def test_what_is_saved_is_all_that_decides(tmp_path, cut):
    whole, first, second = everything(), everything(), everything()
    expected = play(whole, range(1, 15))
    found = play(first, range(1, cut + 1))
    first.save(tmp_path)
    second.load(tmp_path)
    assert found + play(second, range(cut + 1, 15)) == expected
    again = tmp_path / "again"
    again.mkdir()
    reread = everything()
    reread.load(tmp_path)
    reread.save(again)
    assert (again / "npo_mix.json").read_bytes() == (tmp_path / "npo_mix.json").read_bytes()


def test_the_state_names_every_completion(tmp_path):
    mixed = mixer(store=STORE)
    told(mixed, 1, {IDS[0]: 0.125})
    mixed.save(tmp_path)
    before = (tmp_path / "npo_mix.json").read_text()
    mixed.store.prompts[IDS[0]].completions = [right(IDS[0], tokens=(5, 7, 2))]
    mixed.save(tmp_path)
    assert (tmp_path / "npo_mix.json").read_text() != before
    (tmp_path / "npo_mix.json").write_text(json.dumps(json.loads(before)))
    with pytest.raises(DataError, match="does not hold"):
        mixer(store=STORE).load(tmp_path)


def test_nothing_mixed_in_leaves_nothing(tmp_path):
    Mixer().save(tmp_path)
    assert not list(tmp_path.iterdir())


# --- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mix", "words"),
    [
        ({"replay": {}}, "mix.replay takes completions from the success store"),
        ({"sources": [{"kind": "past-successes"}]}, "mix.sources: past-successes takes"),
        ({"prompts": [{"kind": "success-buckets"}]}, "mix.prompts: success-buckets takes"),
        ({"store": {"max_pass_rate": 0.5, "drop_above": 0.25}}, "drop_above = 0.25 is below"),
        ({"store": {}, "replay": {"max_pass_rate": 0.75}}, "mix.replay.max_pass_rate = 0.75 is above"),
        ({"sources": [{"kind": "extra-samples"}] * 2}, "extra-samples twice"),
        ({"prompts": [{"kind": "mistake-pool", "share": 0.7}, {"kind": "review-queue", "share": 0.4}]}, "add up"),
        ({"sources": [{"kind": "plugin", "path": "nothing"}]}, "pattern"),
    ],
)
def test_parts_that_do_not_go_together(mix, words):
    with pytest.raises(ValidationError, match=words):
        Mix(**mix)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"injection": {"slots": 2}}, "slots = 2 is for injection.place = append"),
        ({"injection": {"gate": "dead", "tau_gate": 0.5}}, "tau_gate = 0.5 is for"),
        ({"injection": {"place": "append"}, "training": {"kl_coef": 0.1}}, "place = append trains on rows beside"),
        ({"mix": {"store": {}, "replay": {}}, "training": {"loss": "bnpo"}}, "mix.replay with training.loss = bnpo"),
        ({"injection": {"importance_sampling": "shaped_policy"}, "training": {"kl_coef": 0.1}}, "shaped_policy"),
    ],
)
def test_settings_that_mean_nothing_together(values, words):
    with pytest.raises(ValidationError, match=words):
        RunConfig(**values)


def test_defaults_are_the_papers_and_leave_no_trace():
    assert Injection().model_dump() == {"tau_gate": 0.6, "importance_sampling": "off", "baseline": "mixed"}
    assert "mix" not in RunConfig().model_dump()
