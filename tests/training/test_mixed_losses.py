"""Losses and gradients of every place and ratio, through the real trainer, against their formulas written out.

The formulas are those of the papers: LUFFY (2504.14945), ExGRPO (2510.02245), RLEP (2507.07451), and for replay of rare
successes that of docs/mix.md. The reference computes each row alone, without padding or packing.
"""

from __future__ import annotations

import math
import statistics
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback

from npo_core.config import EngineSettings, Mix, RolloutCorrection, SelfTeacher
from npo_core.guidance.trajectory import Trajectory
from npo_core.mix import Mixer
from npo_core.mix.store import Stored
from npo_core.problems import ProblemSet
from npo_core.problems.chain import solve
from npo_core.training.build import Rewards, grpo_config, training_data, vllm_rollouts
from npo_core.training.taught_trainer import lambda_at
from npo_core.training.trainer import InjectionSettings, NPOTrainer
from tests.training.test_injection import RIGHT, SHORT, WRONG, completion, guide_text, logps_by_hand, sample

LOGPS = np.array([-0.5, -1.0, -0.25], np.float32)
GROUPS = [[WRONG, SHORT, WRONG, WRONG], [RIGHT, WRONG, SHORT, WRONG], [RIGHT, RIGHT, WRONG, RIGHT]]
L, C = 4, 2.0  # the longest completion allowed; weight of replay
LAMBDA, CLIP = 0.8, 0.3  # of a self-teacher
CAP = 1.5  # of the correction for an engine's log-probabilities


def apart(sample: int, tokens: int) -> list[float]:
    """How much less likely, in nats, the engine found the tokens of a group's sample than the policy does."""
    return [0.4 * ((3 * sample + 2 * token) % 5 - 2) for token in range(tokens)]


class Spy(NPOTrainer):
    """Keeps the gradient of an update before it is scaled down, and the generation batch."""

    def _generate_and_score_completions(self, inputs):
        self.batch = super()._generate_and_score_completions(inputs)
        return self.batch

    def training_step(self, *args, **kwargs):
        loss = super().training_step(*args, **kwargs)
        self.gradient = {name: p.grad.clone() for name, p in self.model.named_parameters() if p.grad is not None}
        return loss


@pytest.fixture(scope="module")
def tokenizer(base_folder):
    return AutoTokenizer.from_pretrained(base_folder, padding_side="left")


def trajectory(problem, tokenizer) -> Trajectory:
    ids = [*tokenizer(guide_text(problem.prompt))["input_ids"], tokenizer.eos_token_id]
    return Trajectory(
        problem.id, np.array(ids, np.int32), LOGPS, np.ones(1, np.float32), "correct", "policy", 1, 0, 1, 7
    )


def without_vllm(args, correction) -> None:
    """Give the arguments those of a run with vLLM, which TRL would start."""
    for name, value in vllm_rollouts(EngineSettings(rollouts=True), correction).items():
        setattr(args, name, name != "use_vllm" and value)


def scripted(script, tokenizer, policy, corrected: bool):
    """A rollout that the script writes; where it is corrected, with log-probabilities that are off by `apart`."""

    def generate(prompt_ids, *_):
        rows = sample(prompt_ids, script, tokenizer)
        if not corrected:
            return rows, None
        asked = [tokenizer.decode(ids, skip_special_tokens=True) for ids in prompt_ids]
        known = [logps_by_hand(policy, tokenizer, prompt, ids) for prompt, ids in zip(asked, rows, strict=True)]
        far = [apart(i % len(script[asked[i]]), len(ids)) for i, ids in enumerate(rows)]
        return rows, [[p - d for p, d in zip(*both, strict=True)] for both in zip(known, far, strict=True)]

    return generate


def trained(trainer, problems, script) -> SimpleNamespace:
    """What one update on the script's groups came to."""
    trainer.remove_callback(PrinterCallback)
    trainer.max_kl = math.inf
    trainer.train()
    asked = [o.prompt_id for o in trainer.outcomes]  # of the only batch
    by_id = {p.id: p for p in problems.train}
    return SimpleNamespace(
        trainer=trainer,
        loss=trainer.state.log_history[0]["loss"],
        gradient=trainer.gradient,
        outcomes=trainer.outcomes,
        groups=[(by_id[id_], list(script[by_id[id_].prompt])) for id_ in asked],
        left=[p for p in problems.train if p.id not in asked],
    )


@pytest.fixture
def update(base_folder, tokenizer, problem_set, train_settings, tmp_path):
    """One update on scripted groups; every prompt has a trajectory, in the cache or in the store.

    Other words are fields of `training`.
    """

    def run(groups=GROUPS, *, injection=None, mix=None, stored=0, teacher=None, correction=None, updates=1, **training):
        problems = ProblemSet(problem_set.train[: len(groups) + stored], problem_set.held_out, problem_set.judge)
        script = {p.prompt: kinds for p, kinds in zip(problems.train, [*groups, *[groups[0]] * stored], strict=True)}
        shape = {"prompts_per_step": len(groups), "group_size": len(groups[0]), "max_completion_tokens": L}
        shape |= {"steps": updates, "updates_per_batch": updates, "snapshot_every": 100, "micro_batch": 64}
        settings = train_settings(**shape | {"loss": "dapo", "scale_rewards": "group"} | training)
        args = grpo_config(settings, seed=0, output=tmp_path / "out", device="cpu")
        args.save_strategy = "no"
        if correction is not None:
            without_vllm(args, correction)
        rows = {p.id: trajectory(p, tokenizer) for p in problems.train}
        mixer = Mixer(Mix(**(mix or {})), group_size=len(groups[0]), guidance=None if mix else rows)
        if mixer.store is not None:
            mixer.store.prompts = {id_: Stored([row], 0.125, 1) for id_, row in rows.items()}
        policy, fresh = (AutoModelForCausalLM.from_pretrained(base_folder) for _ in range(2))
        trainer = Spy(
            policy,
            reward_funcs=[Rewards(problems, {tokenizer.eos_token_id}).accuracy],
            train_dataset=training_data(problems),
            args=args,
            processing_class=tokenizer,
            mixer=mixer,
            injection_settings=InjectionSettings(**(injection or {})),
            teacher=teacher,
            privileged=lambda id_: next(f"{p.answer}{p.prompt}" for p in problems.train if p.id == id_),
        )
        trainer._generate_single_turn = scripted(script, tokenizer, fresh, correction is not None)
        trainer.use_vllm = correction is not None
        return trained(trainer, problems, script)

    return run


@pytest.fixture
def reference(base_folder, tokenizer):
    """Loss and gradient of rows (prompt, token ids, advantage, ratio) by a formula written out."""
    model = AutoModelForCausalLM.from_pretrained(base_folder)

    def logps(prompt: str, ids: list[int]) -> torch.Tensor:
        prompt_ids = tokenizer(prompt)["input_ids"]
        logits = model(input_ids=torch.tensor([[*prompt_ids, *ids]])).logits[0, len(prompt_ids) - 1 : -1]
        return logits.log_softmax(-1).gather(1, torch.tensor(ids)[:, None])[:, 0]

    def terms(prompt: str, ids: list[int], advantage: float, ratio: str, weights=1.0) -> torch.Tensor:
        return torch.tensor(weights) * uncorrected(prompt, ids, advantage, ratio)

    def uncorrected(prompt: str, ids: list[int], advantage: float, ratio: str) -> torch.Tensor:
        log_pi = logps(prompt, ids)
        recorded = torch.tensor(LOGPS)
        if ratio == "taught":  # by the same weights, which see the answer before the prompt
            d = (logps(solve(prompt) + prompt, ids) - log_pi).detach()
            w = torch.exp(math.copysign(1, advantage) * d).clamp(1 - CLIP, 1 + CLIP)
            return (log_pi - log_pi.detach()).exp() * advantage * (1 - LAMBDA + LAMBDA * w)
        if ratio == "shaped_policy":
            return log_pi.exp() / (log_pi.exp() + 0.1) * advantage
        if ratio == "shaped_guide":
            w = (log_pi - recorded).exp()
            return w / (w + 0.1) * advantage
        w = (log_pi - (recorded if ratio == "guide" else log_pi.detach())).exp()
        return torch.min(w * advantage, w.clamp(0.8, 1.28) * advantage)

    def of(rows, loss: str, beside=(), own: int | None = None):
        model.zero_grad()
        found = [terms(*row) for row in rows]
        if loss == "dapo":
            total = -sum(t.sum() for t in found) / sum(len(t) for t in found)
        elif loss == "grpo":
            total = -sum(t.mean() for t in found) / len(found)
        else:
            total = -sum(t.sum() for t in found) / (len(found) * L)
        for row in beside:
            total = total - terms(*row).mean() / own
        total.backward()
        gradient = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        return SimpleNamespace(loss=total.item(), gradient=gradient)

    return of


def standard(rewards: list[float], scale: str, over: list[float] | None = None) -> list[float]:
    mean = statistics.fmean(rewards if over is None else over)
    std = statistics.stdev(rewards) + 1e-4 if scale == "group" else 1.0
    return [(reward - mean) / std for reward in rewards]


def own_rows(problem, kinds, tokenizer, advantages, skip=None):
    return [
        (problem.prompt, completion(problem.prompt, kind, tokenizer), advantage, "off")
        for i, (kind, advantage) in enumerate(zip(kinds, advantages, strict=True))
        if i != skip
    ]


def guide_row(problem, tokenizer, advantage, ratio):
    return (problem.prompt, trajectory(problem, tokenizer).token_ids.tolist(), advantage, ratio)


def assert_equal(found, expected) -> None:
    assert found.loss == pytest.approx(expected.loss, abs=2e-6)
    assert found.gradient.keys() == expected.gradient.keys()
    apart = sum((found.gradient[n] - g).pow(2).sum() for n, g in expected.gradient.items()).sqrt()
    norm = sum(g.pow(2).sum() for g in expected.gradient.values()).sqrt()
    assert norm > 1e-3
    assert apart / norm < 1e-5


@pytest.mark.parametrize("loss", ["dapo", "grpo", "dr_grpo"])
@pytest.mark.parametrize("ratio", ["off", "guide", "shaped_guide", "shaped_policy"])
def test_every_ratio_in_the_last_slot(update, reference, tokenizer, ratio, loss):
    """With dr_grpo and without scale, shaped_policy is LUFFY's loss; shaped_guide is ExGRPO's."""
    scale = "none" if loss == "dr_grpo" else "group"
    found = update(injection={"gate": "every", "importance_sampling": ratio}, loss=loss, scale_rewards=scale)
    rows = []
    for problem, kinds in found.groups:
        advantages = standard([*[float(kind == RIGHT) for kind in kinds[:-1]], 1.0], scale)
        rows += own_rows(problem, kinds, tokenizer, advantages, skip=3)
        rows.append(guide_row(problem, tokenizer, advantages[-1], ratio))
    assert_equal(found, reference(rows, loss))


@pytest.mark.parametrize("micro_batch", [64, 3])
@pytest.mark.parametrize("loss", ["dapo", "grpo", "dr_grpo"])
@pytest.mark.parametrize("baseline", ["mixed", "on_policy_only"])
def test_appended_slots_count_as_rows_of_the_batch(update, reference, tokenizer, loss, baseline, micro_batch):
    """RLEP's: advantages over the grown group, and no ratio; the third group is above the gate and does not grow."""
    found = update(injection={"place": "append", "baseline": baseline}, loss=loss, micro_batch=micro_batch)
    rows, appended = [], []
    for problem, kinds in found.groups:
        rewards = [float(kind == RIGHT) for kind in kinds]
        grown = [*rewards, 1.0] if statistics.fmean(rewards) < 0.6 else rewards
        advantages = standard(grown, "group", rewards if baseline == "on_policy_only" else None)
        rows += own_rows(problem, kinds, tokenizer, advantages[:4])
        appended += [guide_row(problem, tokenizer, a, "off") for a in advantages[4:]]
    assert len(appended) == 2
    if micro_batch == 64:
        assert_equal(found, reference([*rows, *appended], loss))
    else:  # the gradient of the last micro batch is the sum of all
        expected = reference([*rows, *appended], loss)
        assert_equal(SimpleNamespace(loss=expected.loss, gradient=found.gradient), expected)


@pytest.mark.parametrize("ratio", ["off", "clip"])
@pytest.mark.parametrize("loss", ["dapo", "grpo", "dr_grpo"])
def test_replayed_rows_are_added_to_grpos_loss(update, reference, tokenizer, loss, ratio):
    """GRPO's + sum over replayed rows of -c a (mean log pi) / rows of the batch; a: advantage of one right one."""
    replay = {"rows": 2, "weight": C, "ratio": ratio}
    found = update(mix={"store": {}, "replay": replay}, stored=1, loss=loss)
    rows = []
    for problem, kinds in found.groups:
        rows += own_rows(problem, kinds, tokenizer, standard([float(kind == RIGHT) for kind in kinds], "group"))
    [left] = found.left  # the only one that the batch does not ask
    weight = C * (4 - 1) / math.sqrt(4)
    beside = [guide_row(left, tokenizer, weight, "guide" if ratio == "clip" else "off")]
    assert_equal(found, reference(rows, loss, beside, own=len(rows)))


@pytest.mark.parametrize("level", [None, "token", "sequence"])
@pytest.mark.parametrize("loss", ["dapo", "grpo", "dr_grpo"])
def test_a_replayed_row_may_be_longer_than_all_of_the_batch(update, reference, tokenizer, loss, level):
    """What was recorded a token while sampling becomes as wide as the batch does; nothing else has an advantage."""
    correction = level and RolloutCorrection(level=level, beyond="truncate", cap=CAP)
    replay = {"store": {}, "replay": {"rows": 2, "weight": C}}
    found = update([[SHORT] * 4, [SHORT] * 4], mix=replay, stored=1, loss=loss, correction=correction)
    batch, [left] = found.trainer.batch, found.left
    assert batch["completion_mask"].sum(1).tolist()[7:9] == [2, 3]
    rows = [row for problem, kinds in found.groups for row in own_rows(problem, kinds, tokenizer, [0.0] * 4)]
    beside = [guide_row(left, tokenizer, C * (4 - 1) / math.sqrt(4), "off")]
    assert_equal(found, reference(rows, loss, beside, own=len(rows)))


@pytest.mark.parametrize("micro_batch", [64, 3])
@pytest.mark.parametrize("loss", ["dapo", "grpo", "dr_grpo"])
def test_a_self_teacher_weighs_each_token(update, reference, tokenizer, loss, micro_batch):
    """RLSD's advantages, of wrong and right completions; groups that are all wrong have none."""
    teacher = SelfTeacher(weight=LAMBDA, clip=CLIP)
    found = update(mix={"store": {}}, teacher=teacher, loss=loss, micro_batch=micro_batch)
    rows = []
    for problem, kinds in found.groups:
        advantages = standard([float(kind == RIGHT) for kind in kinds], "group")
        rows += [(*row[:3], "taught" if row[2] else "off") for row in own_rows(problem, kinds, tokenizer, advantages)]
    expected, plain = reference(rows, loss), reference([(*row[:3], "off") for row in rows], loss)
    assert abs(expected.loss - plain.loss) > 1e-4
    loss = found.loss if micro_batch == 64 else expected.loss
    assert_equal(SimpleNamespace(loss=loss, gradient=found.gradient), expected)


def weights(correction: RolloutCorrection, ids: list[int], sample: int) -> tuple[list[float], list[bool]]:
    """What a completion's tokens weigh, and which ratios are above the cap: one a token or one for all."""
    nats = apart(sample, len(ids))
    ratios = [math.exp(n) for n in nats] if correction.level == "token" else [math.exp(sum(nats))]
    instead = {"truncate": CAP, "mask": 0.0}[correction.beyond]
    corrected = [instead if ratio > CAP else ratio for ratio in ratios]
    return corrected * (len(ids) // len(ratios)), [ratio > CAP for ratio in ratios]


@pytest.mark.parametrize("place", ["last", "append", "replayed"])
@pytest.mark.parametrize("beyond", ["truncate", "mask"])
@pytest.mark.parametrize("level", ["token", "sequence"])
def test_log_probabilities_of_an_engine_are_corrected(update, reference, tokenizer, level, beyond, place):
    """The policy's own completions weigh as much as they are likelier here than in the engine; trajectories weigh 1."""
    correction = RolloutCorrection(level=level, beyond=beyond, cap=CAP)
    replay = {"mix": {"store": {}, "replay": {"rows": 2, "weight": C}}, "stored": 1}
    changes = replay if place == "replayed" else {"injection": {"place": place, "importance_sampling": "guide"}}
    found = update(correction=correction, **changes)
    rows, added, counted, above = [], [], [], []
    for problem, kinds in found.groups:
        rewards = [float(kind == RIGHT) for kind in kinds]
        injected = place != "replayed" and statistics.fmean(rewards) < 0.6
        if injected and place == "last":
            rewards[3] = 1.0
        advantages = standard([*rewards, 1.0] if injected and place == "append" else rewards, "group")
        own = own_rows(problem, kinds, tokenizer, advantages[:4])
        kept = own[:3] if injected and place == "last" else own
        for sample_number, row in enumerate(kept):
            weighs, capped = weights(correction, row[1], sample_number)
            rows.append((*row, weighs))
            counted += weighs if level == "token" else weighs[:1]
            above += capped
        if injected:
            added.append(guide_row(problem, tokenizer, advantages[-1], "guide"))
    beside = []
    if place == "replayed":
        beside = [guide_row(found.left[0], tokenizer, C * (4 - 1) / math.sqrt(4), "off")]
    assert len(added) == (2 if place != "replayed" else 0)
    assert_equal(found, reference([*rows, *added], "dapo", beside, own=len(rows)))
    logged = found.trainer.state.log_history[0]
    assert logged["sampling/ratio"] == pytest.approx(statistics.fmean(counted), abs=1e-5)
    assert logged["sampling/beyond"] == pytest.approx(statistics.fmean(above)) and 0 < statistics.fmean(above) < 1
    plain = reference([*(row[:4] for row in rows), *added], "dapo", beside, own=len(rows))
    assert abs(plain.loss - found.loss) > 1e-3


def test_no_correction_is_the_loss_of_a_rollout_of_its_own(update):
    """How far the engine is away is measured nevertheless."""
    found = update(correction=RolloutCorrection(level="off"))
    assert_equal(found, update())
    logged = found.trainer.state.log_history[0]
    own = (found.trainer.batch["completion_mask"] * (1 - found.trainer.batch["guide_mask"])).sum(1).tolist()
    nats = [n for i, tokens in enumerate(own) for n in apart(found.trainer.batch["rows"][i].item() % 4, tokens)]
    assert logged["sampling/kl"] == pytest.approx(statistics.fmean(math.expm1(n) - n for n in nats), abs=1e-5)
    assert "sampling/ratio" not in logged


def test_what_is_masked_is_not_computed(update):
    """Of a masked completion nothing is trained, so that the update leaves it out like one without advantage."""
    masked, cut = (update(correction=RolloutCorrection(beyond=b, cap=CAP)).trainer for b in ("mask", "truncate"))
    trained = [trainer.state.log_history[0]["tokens_trained"] for trainer in (masked, cut)]
    batch = masked.batch
    out = (batch["importance_sampling_ratio"] == 0).any(1) & (batch["advantages"] != 0)
    assert out.any() and trained[1] - trained[0] == batch["completion_mask"][out].sum()


def test_a_teacher_fades():
    teacher = SelfTeacher(weight=0.5, decay_steps=50)
    assert [lambda_at(teacher, update) for update in (1, 26, 51, 80)] == [0.5, 0.25, 0.0, 0.0]


def test_rows_beside_have_the_policys_old_log_probabilities(update, base_folder, tokenizer):
    """With two updates a batch, as all other rows have them; a pad row that fills up has none."""
    found = update(mix={"store": {}, "replay": {"rows": 2}}, stored=1, updates=2)
    batch, [left] = found.trainer.batch, found.left
    assert batch["completion_mask"].sum(1).tolist()[12:] == [3, 0]  # of an even number of rows for two updates
    fresh = AutoModelForCausalLM.from_pretrained(base_folder)
    expected = logps_by_hand(fresh, tokenizer, left.prompt, trajectory(left, tokenizer).token_ids.tolist())
    assert batch["old_per_token_logps"][12, :3].tolist() == pytest.approx(expected, abs=1e-5)


def test_a_random_wrong_one_gives_way(update, tokenizer):
    """The first group has no right one, the second has; that one never gives way, and the choice repeats."""
    settings = {"gate": "every", "place": "random_wrong"}
    found, again = (update(injection=settings, mix=None) for _ in range(2))
    assert [o.tokens for o in found.outcomes] == [o.tokens for o in again.outcomes]
    mask = found.trainer.batch["guide_mask"].any(1).view(3, 4)
    assert mask.sum(1).tolist() == [1, 1, 1]
    for (_, kinds), row in zip(found.groups, mask, strict=True):
        assert kinds[int(row.nonzero()[0])] != RIGHT
    assert {int(row.nonzero()[0]) for row in mask} != {3}  # else it would be the last slot


@pytest.mark.parametrize(
    ("gate", "injected"),
    [
        ({"gate": "dead"}, [True, False, False]),
        ({"gate": "every"}, [True, True, True]),
        ({"tau_gate": 0.5}, [True, True, False]),
        ({"gate": "every", "start_above": 0.3}, [True, True, True]),
        ({"gate": "every", "start_above": 0.34}, [False, False, False]),  # 4 of 12 are right
    ],
)
def test_gates(update, gate, injected):
    found = update(injection=gate)
    by_kinds = {tuple(kinds): o.injected for (_, kinds), o in zip(found.groups, found.outcomes, strict=True)}
    assert [by_kinds[tuple(kinds)] for kinds in GROUPS] == injected
