"""The decision as a function of what was seen: V and S by hand, exclusions, ties, budgets, answers, and no warning."""

import math

import pytest

from npo_core.config import AutoNPO, Choice, Control, RunConfig, Trigger
from npo_core.config import Probe as ProbeSettings
from npo_core.control.choice import Chosen, choose, variance_cost
from npo_core.control.decide import decide
from npo_core.control.decision import Budget
from npo_core.control.prices import Prices
from npo_core.control.probe import Candidate, ProbeResult
from npo_core.names import AUTO_NPO
from npo_core.timeline import SnapshotRef

SETTINGS = AutoNPO(
    control=Control(trigger=Trigger(ema=0.0, window=2, min_gain=0.1, min_entropy_drop=0.1, warm_up=3)),
    probe=ProbeSettings(min_solved=0.1, min_prompts=4),
    choice=Choice(max_delta=40),
)


def candidate(delta: int, prompts: int = 10, q: float | None = 0.5, kl: float | None = 0.0) -> Candidate:
    place = {"step": 100 - delta, "snapshot": f"s{delta}", "delta": delta}
    return Candidate(**place, prompts=prompts, q=q, kl=kl, kl_k3=kl, length=5.0)


def probe(*candidates: Candidate, q: float | None = 0.5) -> ProbeResult:
    return ProbeResult(pool=40, prompts=20, samples=2, q=q, tokens=200, candidates=list(candidates))


AT = SnapshotRef(step=100, snapshot="s0")


def best_candidate(found: ProbeResult, settings: AutoNPO, left: Budget) -> Chosen:
    return choose(found, settings, left, Prices(RunConfig(auto=settings), found, []))


def changed(**choice) -> AutoNPO:
    return SETTINGS.model_copy(update={"choice": SETTINGS.choice.model_copy(update=choice)})


def test_v_is_the_exponential_of_the_kl_of_a_token_or_of_a_completion():
    assert variance_cost(candidate(10, kl=0.2), Choice()) == pytest.approx(math.exp(0.2))
    assert variance_cost(candidate(10, kl=0.2), Choice(kl_scale=3.0)) == pytest.approx(math.exp(0.6))
    assert variance_cost(candidate(10, kl=0.2), Choice(kl_form="sequence")) == pytest.approx(math.e)
    assert variance_cost(candidate(10, kl=-0.1), Choice()) == 1.0  # k1 may be negative, a KL is not
    assert variance_cost(candidate(10, kl=None), Choice()) is None
    assert math.isfinite(variance_cost(candidate(10, kl=1e6), Choice()))


def test_v_takes_the_estimator_that_is_set():
    both = candidate(10, kl=0.2).model_copy(update={"kl_k3": 0.1})
    assert variance_cost(both, Choice(kl_estimator="k3")) == pytest.approx(math.exp(0.1))
    scored, _, best, reason = best_candidate(probe(both), changed(kl_estimator="k3"), Budget())
    assert scored[0].kl == best.kl == 0.1 and "KL 0.1000" in reason


def test_the_largest_s_wins_and_both_q_and_kl_count():
    near, middle, far = candidate(10, q=0.2, kl=0.0), candidate(20, q=0.5, kl=0.5), candidate(40, q=0.6, kl=1.0)
    scored, _, best, reason = best_candidate(probe(near, middle, far), SETTINGS, Budget())
    assert best.delta == 20 and best.s == pytest.approx(0.5 * math.exp(-0.5)) and best == scored[1]
    assert [c.s for c in scored] == pytest.approx([0.2, 0.5 * math.exp(-0.5), 0.6 * math.exp(-1)])
    assert reason.startswith("Of 3 candidates Delta = 20 has the largest S = 0.3033 (Q 0.500, KL 0.5000 nats a token")
    assert best_candidate(probe(near, middle, far), changed(kl_scale=0.0), Budget()).best.delta == 40
    assert best_candidate(probe(near, middle, far), changed(kl_scale=4.0), Budget()).best.delta == 10


def test_of_equal_s_the_shorter_rollback_wins():
    assert best_candidate(probe(candidate(30), candidate(10), candidate(20)), SETTINGS, Budget()).best.delta == 10


def test_excluded_candidates_say_why_and_are_not_chosen():
    scored, _, best, _ = best_candidate(
        probe(candidate(50, q=1.0), candidate(40, prompts=3, q=1.0), candidate(35, q=1.0), candidate(10)),
        SETTINGS,
        Budget(updates=30),
    )
    assert [c.excluded for c in scored] == [
        "more than choice.max_delta = 40 updates back",
        "3 probed failures, probe.min_prompts = 4",
        "the budget has 30 updates left",
        None,
    ]
    assert best.delta == 10


@pytest.mark.parametrize(
    ("found", "left", "reason"),
    [
        (probe(candidate(10)), Budget(interventions=0), "All interventions are used up."),
        (
            probe(candidate(10, prompts=0, q=None, kl=None), q=None),
            Budget(),
            "The mistake pool has no failures in reach",
        ),
        (
            probe(candidate(10), q=0.0999),
            Budget(),
            "solves 0.100 of its past failures, less than probe.min_solved = 0.1",
        ),
        (probe(candidate(10, prompts=3)), Budget(), "No snapshot can be rolled back to: 3 probed failures"),
        (probe(), Budget(), "No snapshot can be rolled back to: there is no snapshot to go back to."),
    ],
)
def test_reasons_not_to_intervene(found, left, reason):
    scored, choices, best, told = best_candidate(found, SETTINGS, left)
    assert set(choices.values()) == {None}
    assert best is None and reason in told and len(scored) == len(found.candidates)


def test_the_threshold_itself_is_enough():
    assert best_candidate(probe(candidate(10, prompts=4), q=0.1), SETTINGS, Budget(updates=10)).best.delta == 10


def rows(*rates: float) -> list[dict]:
    """Updates 97 to 100 of a plateau; 30 tokens each, none where nothing was generated."""
    first = 101 - len(rates)
    return [
        {"step": first + i, "pass_rate": rate, "entropy": 1 - 0.2 * i, "tokens_generated": 30.0 if i % 2 else None}
        for i, rate in enumerate(rates)
    ]


def make(settings=SETTINGS, found=None, left=None, ways=None, **changes):
    values = {
        "number": 3,
        "flow": AUTO_NPO,
        "branch": "main",
        "at": AT,
        "probe_id": "p",
    }
    known = rows(0.5, 0.5, 0.5, 0.5) if ways is None else ways
    return decide(RunConfig(auto=settings), known, found, left or Budget(), **values, **changes)


def test_a_decision_to_intervene_records_what_it_saw():
    made = make(found=probe(candidate(2), candidate(40, q=0.1)))
    assert (made.intervene, made.delta, made.rollback) == (True, 2, SnapshotRef(step=98, snapshot="s2"))
    assert made.pool_q == 0.5 and made.probe == "p" and [c.delta for c in made.candidates] == [2, 40]
    assert made.signals["reading"]["warning"] and made.signals["reading"]["step"] == 100
    assert [r["step"] for r in made.signals["window"]] == [98, 99, 100]  # from one window ago to now
    assert made.signals["window"][0]["average_pass_rate"] == 0.5
    assert made.thresholds == {
        "trigger": SETTINGS.control.trigger.model_dump(),
        "probe": SETTINGS.probe.model_dump(),
        "choice": SETTINGS.choice.model_dump(),
    }
    # Replayed: updates 99 and 100, of which one generated 30 tokens. Guidance: half of the probed failures lie after
    # the snapshot, so half of the pool's 40, with samples of 5 tokens in up to four rounds of two until the first right
    # one: 2 x (1 + 1/4 + 1/16 + 1/64).
    assert made.expected == {"updates": 2.0, "tokens": 30.0 + 20 * 2.65625 * 5.0}
    assert made.choices == {"signal": 2, "signal_per_price": 2}


def test_a_control_without_guidance_pays_only_the_replay():
    made = make(SETTINGS.model_copy(update={"guided": False}), probe(candidate(2)))
    assert made.expected["tokens"] == 30.0


def test_an_intervention_that_the_tokens_do_not_pay_for_is_left_out():
    enough, short = (make(found=probe(candidate(2)), left=Budget(tokens=t)) for t in (296, 295))
    assert enough.intervene and not short.intervene
    assert short.delta is None and short.rollback is None
    assert short.reason == "No snapshot can be rolled back to: costs 296 tokens, and the budget has 295 left."


@pytest.mark.parametrize(
    ("ways", "reason"),
    [
        (rows(0.5, 0.5), "fewer updates are recorded than the window of 2"),
        ([], "fewer updates are recorded than the window of 2"),
        (rows(0.1, 0.2, 0.4, 0.6), "gained +0.400 (stagnates below 0.1)"),
    ],
)
def test_without_a_warning_nothing_is_chosen(ways, reason):
    made = make(found=probe(candidate(2)), ways=ways)
    assert (
        not made.intervene
        and made.candidates == []
        and made.reason.startswith("No warning: ")
        and reason in made.reason
    )
    assert made.expected == {"updates": 0.0, "tokens": 0.0}


def test_within_the_warm_up_there_is_no_warning():
    late = SETTINGS.model_copy(
        update={"control": Control(trigger=SETTINGS.control.trigger.model_copy(update={"warm_up": 101}))}
    )
    assert make(late, probe(candidate(2))).reason == "No warning: update 100 is within the warm-up of 101."


def test_a_warning_without_a_probe_intervenes_nowhere():
    assert "nothing was probed here" in make().reason
    assert "7 tokens are too few for a probe" in make(left=Budget(tokens=7)).reason
    assert not make().intervene


def test_answers():
    made = make(found=probe(candidate(2), candidate(20), candidate(30, prompts=1)))
    assert made.answered("accept", None) == made
    other = made.answered("other", 20)
    assert (other.delta, other.rollback) == (20, SnapshotRef(step=80, snapshot="s20")) and other.intervene
    declined = made.answered("decline", None)
    assert (declined.intervene, declined.delta, declined.rollback) == (False, None, None)
    assert made.complaint("other", 20) == made.complaint("accept", None) == made.complaint("decline", None) == ""
    for wrong in (30, 3, None):
        assert made.complaint("other", wrong) == f"Delta = {wrong} is no candidate: choose one of 2, 20. "
