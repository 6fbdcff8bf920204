"""Prices of candidates by hand, what each rule makes of them, and interventions without a rollback."""

import pytest

from npo_core.config import AutoNPO, Choice, Guidance, Mix, Rescue, RunConfig, Training, override, parse_config
from npo_core.config import Probe as ProbeSettings
from npo_core.control.choice import choose
from npo_core.control.decision import Budget
from npo_core.control.prices import Prices, until_right
from npo_core.control.probe import Candidate, ProbeResult
from npo_core.errors import ConfigError
from npo_core.mix.rescue import mix_of


def config(**auto) -> RunConfig:
    """16 groups of 8; a rescue of 10 updates brings 4 failures back in each."""
    settings = AutoNPO(
        rescue=Rescue(updates=10, share=0.25, chunks=2), probe=ProbeSettings(min_prompts=4, min_solved=0.0), **auto
    )
    training = Training(prompts_per_step=16, group_size=8, micro_batch=128)
    return RunConfig(auto=settings, training=training, guidance=Guidance(samples=4, samples_per_round=4))


def candidate(delta: int, q: float = 0.25, solved: float = 1.0, prompts: int = 20) -> Candidate:
    place = {"step": 100 - abs(delta), "snapshot": f"s{delta}", "delta": delta}
    return Candidate(**place, prompts=prompts, q=q, solved=solved, kl=0.0, kl_k3=0.0, length=5.0)


def probe(*candidates: Candidate, pool: int = 60, behind: tuple[Candidate, ...] = ()) -> ProbeResult:
    """20 failures asked four times: half are missed, and a sample more solves a quarter of these."""
    values = {"prompts": 20, "samples": 4, "q": 0.25, "solved": 0.5, "tokens": 400}
    return ProbeResult(pool=pool, **values, candidates=list(candidates), now=NOW, behind=list(behind))


NOW = candidate(0, q=0.375).model_copy(update={"step": 100, "snapshot": "now"})


def rows(dead: float = 6.0) -> list[dict]:
    """Updates 1 to 100, 640 tokens and 3 seconds each, of which 2 generate."""
    seconds = {"seconds_generate": 2.0, "seconds_verify": 0.0, "seconds_update": 1.0}
    return [{"step": s, "tokens_generated": 640.0, "groups_all_wrong": dead, **seconds} for s in range(1, 101)]


def test_samples_until_the_first_right_one():
    assert until_right(0.0, 8, 4) == 32
    assert until_right(1.0, 8, 4) == 8
    assert until_right(0.5, 1, 3) == 1 + 0.5 + 0.25


def test_a_rollback_costs_its_replay_and_its_guidance():
    prices = Prices(config(), probe(), rows())
    half = candidate(20, prompts=10, solved=0.5)
    assert prices.kinds(half) == [(0.5, 0.0, 0.5), (0.5, 0.0, 0.0)]
    assert prices.failures(half) == 30 and prices.rescued(half) == 30 * 0.5 * (1 - 0.5**4)
    price = prices.of(half)
    assert price.updates == 20 and price.tokens == 20 * 640 + 30 * 4 * 5
    assert price.seconds == pytest.approx(20 * 3 + 600 * 2 / 640)


def test_delta_zero_costs_the_places_of_failures_and_extra_samples_of_dead_groups():
    """Half of the failures are right with a chance of a half, the other half with one of a quarter."""
    prices = Prices(config(), probe(), rows())
    assert prices.kinds(NOW) == [(0.5, 0.5, 0.5), (0.5, 0.25, 0.25)]
    assert prices.failures(NOW) == 40  # ten batches with four places
    assert prices.rescued(NOW) == pytest.approx(40 * (0.5 * (1 - 0.5**24) + 0.5 * (1 - 0.75**24)))
    half, quarter = 8 * (1 + 0.5**8), 8 * (1 + 0.75**8)
    extra = 0.5 * 0.5**8 * half + 0.5 * 0.75**8 * quarter
    assert prices.of(NOW).tokens == pytest.approx(10 * 5 * (4 * (8 + extra) + 6 * 0.75 * quarter))
    assert prices.of(NOW).updates == 0


def test_a_guide_from_behind_costs_the_places_of_failures_and_a_cache_of_the_whole_pool():
    """It solves what the policy misses with a chance of a tenth."""
    prices, behind = Prices(config(), probe(), rows()), candidate(-40, q=0.3)
    assert prices.kinds(behind) == [(0.5, 0.5, 0.5), (0.5, 0.25, pytest.approx(0.1))]
    assert prices.rescued(behind) == pytest.approx(40 * (0.5 * (1 - 0.5**12) + 0.5 * (1 - 0.75**8 * 0.9**4)))
    assert prices.of(behind).tokens == pytest.approx(5 * (60 * 4 + 10 * 4 * 8)) and prices.of(behind).updates == 0


def test_a_small_pool_fills_fewer_places():
    prices = Prices(config(), probe(pool=3), rows(dead=0.0))
    assert prices.failures(NOW) == 3
    extra = 0.5 * 0.5**8 * 8 * (1 + 0.5**8) + 0.5 * 0.75**8 * 8 * (1 + 0.75**8)
    assert prices.of(NOW).tokens == pytest.approx(10 * 5 * 3 * (8 + extra))


def choices(settings: RunConfig, found: ProbeResult, left: Budget | None = None):
    return choose(found, settings.auto, left or Budget(), Prices(settings, found, rows()))


def test_each_rule_chooses_and_the_set_one_is_carried_out():
    found = probe(candidate(20, q=0.3), candidate(40, q=0.5), behind=(candidate(-40, q=0.25),))
    for rule, delta in (("signal", 40), ("signal_per_price", -40)):
        made = choices(config(choice=Choice(rule=rule, now=True)), found)
        assert made.choices == {"signal": 40, "signal_per_price": -40}
        assert made.best.delta == delta and f"Delta = {delta} has the largest" in made.reason
    assert [c.delta for c in made.scored] == [20, 40, 0, -40]
    now = made.scored[2]
    assert (now.snapshot, now.v, now.s) == ("now", 1.0, 0.375)
    assert now.per_price == pytest.approx(now.rescued / now.price.tokens)


def test_as_published_there_is_no_candidate_but_a_rollback():
    made = choices(config(), probe(candidate(20), candidate(40)))
    assert [c.delta for c in made.scored] == [20, 40] and made.best.delta == 20


def test_where_no_snapshot_is_left_the_run_can_stay():
    found = probe(candidate(20, prompts=3))
    assert choices(config(), found).best is None
    assert choices(config(choice=Choice(now=True)), found).best.delta == 0


def test_what_a_past_self_solves_is_reason_enough():
    found = probe(behind=(candidate(-40, q=0.5),)).model_copy(update={"q": 0.0})
    settings = config(choice=Choice(now=True))
    settings = settings.model_copy(
        update={"auto": settings.auto.model_copy(update={"probe": ProbeSettings(min_prompts=4, min_solved=0.1)})}
    )
    assert choices(settings, found).best.delta == -40


def test_a_candidate_beyond_the_tokens_left_is_left_out():
    found = probe(candidate(20), candidate(40, q=0.5))
    tokens = int(Prices(config(), found, rows()).of(found.candidates[0]).tokens)
    made = choices(config(), found, Budget(tokens=tokens))
    assert made.best.delta == 20 and made.scored[1].excluded.startswith("costs 26800 tokens, and the budget has ")


def test_what_a_rescue_mixes_in():
    settings = config().model_copy(update={"mix": Mix()})
    extra, guided = mix_of(settings, extra=True), mix_of(settings, extra=False)
    assert [part.kind for part in extra.sources] == ["extra-samples"] and guided.sources == ()
    assert extra.prompts == guided.prompts and extra.prompts[0].share == 0.25 and extra.sources[0].chunks == 2
    own = Mix.model_validate({"prompts": [{"kind": "mistake-pool", "share": 0.125}]})
    assert mix_of(settings.model_copy(update={"mix": own}), extra=False) == own


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        (
            {"auto.choice.now": True, "mix": {"sources": [{"kind": "extra-samples"}]}},
            "auto.choice.now = true would draw extra samples of failures, and mix.sources has extra-samples",
        ),
        (
            {"auto.probe.behind": 2, "mix": {"prompts": [{"kind": "dynamic-sampling"}]}},
            "auto.probe.behind = 2 brings failures back to be rescued, and dynamic-sampling of mix.prompts drops them",
        ),
        ({"auto.guided": False, "auto.choice.now": True}, "auto.choice.now = true needs a guide"),
        ({"auto.guided": False, "auto.probe.behind": 1}, "auto.probe.behind = 1 needs a guide"),
    ],
)
def test_contradictions_are_refused(fields, told):
    with pytest.raises(ConfigError, match=told.replace(".", r"\.")):
        parse_config(override(RunConfig().model_dump(mode="json"), fields))
