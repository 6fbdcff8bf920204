"""Near-Future Policy Optimization (arXiv 2604.20733) in one file: a policy learns from itself, a few steps later.

On the built-in task (chain arithmetic modulo 10):
1. Plain GRPO from the base model for `--scout` updates. The policy at the end of it is the guide.
2. The guide samples the segment's prompts; of each prompt it solves, one correct completion is kept by its token ids.
3. Back to the base: weights, optimizer, step. The segment runs again, same prompts, same random numbers; where the
   policy's pass rate on a prompt is below `tau_gate`, the last completion of its group gives way to the guide's.
   Plain GRPO from there to `--steps`.

    python examples/npo_loop.py --steps 120 --scout 60 --seed 0              # add --compare for GRPO beside it
    python examples/npo_loop.py --steps 120 --rescue 4                       # Delta = 0: the policy is its own guide

Left out: processes, checkpoints, metrics, ladders, AutoNPO, and what changes nothing with these settings.
With one configuration and seed this file and the pipeline sample the same tokens and reach the same weights, up to
float rounding: tests/test_reference_loop.py holds them to it.
"""

import argparse
import copy
import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from npo_core.config import BuiltInModel, ChainProblems
from npo_core.engines.noise import gumbel
from npo_core.models.built_in import train_base
from npo_core.problems import Completion, Problem, ProblemSet
from npo_core.problems.load import load_problems

# Shape suffixes: P prompts of a batch, G completions of a prompt (a group), B = P * G rows with groups together,
# T tokens of a completion, V vocabulary. Completions are lists of token ids until the loss pads them.
Tokens = list[int]


@dataclass(frozen=True)
class Settings:
    """Defaults are those of `npo_core.config`."""

    seed: int = 0  # order of the prompts and all sampling
    prompts_per_step: int = 32  # P
    group_size: int = 8  # G
    max_completion_tokens: int = 6  # T at most, end-of-sequence token included
    learning_rate: float = 2e-4
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    clip_low: float = 0.2
    clip_high: float = 0.28
    tau_gate: float = 0.6
    rescue: int = 0  # rounds of `group_size` more samples that a dead group gets of the policy itself
    guide_samples: int = 8  # k, at most so many for a prompt
    guide_samples_per_round: int = 2
    guide_chunk_prompts: int = 512  # prompts sampled together; part of what decides the random numbers
    eval_samples: int = 4
    eval_every: int = 20


@dataclass(frozen=True)
class Task:
    """What does not change during a run."""

    settings: Settings
    problems: ProblemSet
    tokenizer: object  # pads on the left


@dataclass
class Policy:
    """What training changes, and all of it: randomness comes from (seed, step), not from a generator's state."""

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    step: int = 0  # updates done


@dataclass(frozen=True)
class Group:
    """What became of one prompt in one update."""

    step: int
    prompt_id: str
    pass_rate: float  # of the policy's own G samples
    injected: bool
    completions: list[Tokens]  # as trained on


# The same seed and step always meet the same prompts and the same random numbers: that makes a replay the same run.


def derive_seed(*parts: int | str) -> int:
    return int.from_bytes(hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()[:4], "big")


def batch_of(step: int, task: Task) -> list[Problem]:
    """The P problems of an update: an epoch is a permutation of the training set, without a short last batch."""
    train, size = task.problems.train, task.settings.prompts_per_step
    epoch, batch = divmod(step, len(train) // size)
    generator = torch.Generator().manual_seed(derive_seed("order", task.settings.seed, epoch))
    order = torch.randperm(len(train), generator=generator).tolist()
    return [train[i] for i in order[batch * size : (batch + 1) * size]]


def snapshot(policy: Policy) -> dict:
    """All of a policy, as copies that further training does not touch."""
    state = {"model": policy.model.state_dict(), "optimizer": policy.optimizer.state_dict(), "step": policy.step}
    return copy.deepcopy(state)


def rollback(policy: Policy, state: dict) -> None:
    state = copy.deepcopy(state)  # the optimizer would go on to change the snapshot's tensors in place
    policy.model.load_state_dict(state["model"])
    policy.optimizer.load_state_dict(state["optimizer"])
    policy.step = state["step"]


@torch.no_grad()
def sample(model: torch.nn.Module, task: Task, problems: list[Problem], samples: int, seed: int) -> list[list[Tokens]]:
    """`samples` completions of each problem at temperature 1, untruncated, with their end-of-sequence token."""
    prompts = [problem.prompt for problem in problems for _ in range(samples)]
    inputs = task.tokenizer(prompts, return_tensors="pt", padding=True)
    eos, pad, start = task.tokenizer.eos_token_id, task.tokenizer.pad_token_id, inputs.input_ids.shape[1]
    config = GenerationConfig(eos_token_id=eos, pad_token_id=pad, max_new_tokens=task.settings.max_completion_tokens)
    def noisy(ids: torch.Tensor, logits_BV: torch.Tensor) -> torch.Tensor:  # its argmax is a draw, from a number by key
        return logits_BV + gumbel(seed, torch.arange(len(ids)), ids.shape[1] - start, logits_BV.shape[1])
    out = model.generate(input_ids=inputs.input_ids, attention_mask=inputs.attention_mask, generation_config=config,
                         logits_processor=[noisy], do_sample=False)
    rows_B = [row[: row.index(eos) + 1] if eos in row else row for row in out[:, start:].tolist()]
    return [rows_B[i : i + samples] for i in range(0, len(rows_B), samples)]


def correct(task: Task, problem: Problem, completion: Tokens) -> bool:
    """Whether the completion ended by itself and the verifier calls it correct."""
    text = task.tokenizer.batch_decode([completion], skip_special_tokens=True)[0]
    ended = completion[-1] == task.tokenizer.eos_token_id
    [verdict] = task.problems.judge([Completion(problem, text, len(completion), finished=ended)])
    return verdict.correct


def ask(model: torch.nn.Module, task: Task, asked: list[Problem], rounds: list[tuple[int, int]]) -> dict[str, Tokens]:
    """Rounds of (samples, seed), until the first correct completion of each problem; by prompt id."""
    found: dict[str, Tokens] = {}
    for samples, seed in rounds:
        if pending := [problem for problem in asked if problem.id not in found]:
            for problem, rows in zip(pending, sample(model, task, pending, samples, seed), strict=True):
                found |= {problem.id: right[0]} if (right := [r for r in rows if correct(task, problem, r)]) else {}
    return found


def inject(
    samples_PG: list[list[Tokens]], rewards_PG: torch.Tensor, cached_P: list[Tokens | None], tau_gate: float
) -> list[bool]:
    """Replace the last of failing groups' G samples, which count in the gate, in place. [P]: who took guidance."""
    failing_P = (rewards_PG.mean(dim=1) < tau_gate).tolist()
    injected_P = [failing and cached is not None for failing, cached in zip(failing_P, cached_P, strict=True)]
    for group, injected in enumerate(injected_P):
        if injected:
            samples_PG[group][-1] = cached_P[group]
            rewards_PG[group, -1] = 1.0
    return injected_P


def advantages(rewards_PG: torch.Tensor) -> torch.Tensor:
    """GRPO's, over the mixed group; a group that is all right or all wrong gets 0."""
    mean_P1, std_P1 = rewards_PG.mean(dim=1, keepdim=True), rewards_PG.std(dim=1, keepdim=True)
    return (rewards_PG - mean_P1) / (std_P1 + 1e-4)


def policy_loss(
    model: torch.nn.Module, task: Task, problems: list[Problem], samples_PG: list[list[Tokens]], adv_PG: torch.Tensor
) -> torch.Tensor:
    """The clipped objective as a mean over all tokens; with one update a batch the ratio is 1."""
    inputs = task.tokenizer([p.prompt for p in problems for _ in samples_PG[0]], return_tensors="pt", padding=True)
    rows_B = [torch.tensor(row) for group in samples_PG for row in group]
    ids_BT = pad_sequence(rows_B, batch_first=True, padding_value=task.tokenizer.pad_token_id)
    mask_BT = pad_sequence([torch.ones_like(row) for row in rows_B], batch_first=True)
    logits_BTV = model(
        input_ids=torch.cat([inputs.input_ids, ids_BT], dim=1),
        attention_mask=torch.cat([inputs.attention_mask, mask_BT], dim=1),
        logits_to_keep=ids_BT.shape[1] + 1,
    ).logits[:, :-1]
    logps_BT = logits_BTV.log_softmax(-1).gather(2, ids_BT[:, :, None])[:, :, 0]

    ratio_BT = torch.exp(logps_BT - logps_BT.detach())
    clipped_BT = ratio_BT.clamp(1 - task.settings.clip_low, 1 + task.settings.clip_high)
    loss_BT = -torch.min(ratio_BT * adv_PG.view(-1, 1), clipped_BT * adv_PG.view(-1, 1))
    return (loss_BT * mask_BT).sum() / mask_BT.sum()


def update(policy: Policy, task: Task, guidance: dict[str, Tokens]) -> list[Group]:
    """One optimizer update: sample, verify, inject, learn."""
    settings, problems = task.settings, batch_of(policy.step, task)
    seed = derive_seed("step", settings.seed, policy.step, 0, 0)  # first micro step of the batch, rank 0
    samples_PG = sample(policy.model, task, problems, settings.group_size, seed)
    rewards_PG = torch.tensor([[float(correct(task, problem, row)) for row in rows]
                               for problem, rows in zip(problems, samples_PG, strict=True)])
    pass_rate_P = rewards_PG.mean(dim=1).tolist()
    dead = [problem for problem, rate in zip(problems, pass_rate_P, strict=True) if rate == 0]
    draws = [derive_seed("draw", settings.seed, policy.step, number + 1) for number in range(settings.rescue)]
    guidance = guidance | ask(policy.model, task, dead, [(settings.group_size, seed) for seed in draws])  # Delta = 0
    injected_P = inject(samples_PG, rewards_PG, [guidance.get(p.id) for p in problems], settings.tau_gate)

    policy.optimizer.zero_grad()
    policy_loss(policy.model, task, problems, samples_PG, advantages(rewards_PG)).backward()
    torch.nn.utils.clip_grad_norm_(policy.model.parameters(), settings.max_grad_norm)
    policy.optimizer.step()
    policy.step += 1
    return [Group(policy.step, problem.id, *rest)
            for problem, *rest in zip(problems, pass_rate_P, injected_P, samples_PG, strict=True)]


def train(
    policy: Policy, task: Task, until: int, guidance: dict[str, Tokens] | None = None, rates: dict | None = None
) -> list[Group]:
    """Updates up to step `until`: plain GRPO without guidance, a guided replay with it. Evaluates into `rates`."""
    groups: list[Group] = []
    while policy.step < until:
        groups += update(policy, task, guidance or {})
        if rates is not None and policy.step % task.settings.eval_every == 0:
            rates[policy.step] = evaluate(policy.model, task)
    return groups


def not_passed(task: Task, scout: list[Group]) -> list[Problem]:
    """The segment's prompts in the order met, without those whose last pass rate in it reached `tau_gate`."""
    by_id = {problem.id: problem for problem in task.problems.train}
    last_rate = {group.prompt_id: group.pass_rate for group in scout}
    return [by_id[id_] for id_, rate in last_rate.items() if rate < task.settings.tau_gate]


def sample_guidance(guide: torch.nn.Module, task: Task, asked: list[Problem], guide_step: int) -> dict[str, Tokens]:
    """The guide's first correct completion of each problem it solves, by prompt id; a solved one is not asked again."""
    found, most, width = {}, task.settings.guide_samples, task.settings.guide_samples_per_round
    for chunk, start in enumerate(range(0, len(asked), task.settings.guide_chunk_prompts)):
        seed = derive_seed("guidance", task.settings.seed, guide_step, chunk)
        rounds = [(min(width, most - drawn), derive_seed(seed, drawn)) for drawn in range(0, most, width)]
        found |= ask(guide, task, asked[start : start + task.settings.guide_chunk_prompts], rounds)
    return found


def evaluate(model: torch.nn.Module, task: Task) -> float:
    """Pass rate on the held-out problems, always with the same random numbers."""
    answers = sample(model, task, task.problems.held_out, task.settings.eval_samples, derive_seed("evaluation"))
    right = [correct(task, p, row) for p, rows in zip(task.problems.held_out, answers, strict=True) for row in rows]
    return sum(right) / len(right)


def load_policy(base: Path, settings: Settings) -> Policy:
    """The base model under a fresh AdamW, as transformers' Trainer makes it: no decay on biases and norms."""
    model = AutoModelForCausalLM.from_pretrained(base)
    decay = [p for name, p in model.named_parameters() if "norm" not in name and "bias" not in name]
    exempt = [p for name, p in model.named_parameters() if "norm" in name or "bias" in name]
    groups = [{"params": decay, "weight_decay": settings.weight_decay}, {"params": exempt, "weight_decay": 0.0}]
    return Policy(model, torch.optim.AdamW(groups, settings.learning_rate, betas=(0.9, 0.999), eps=1e-8, fused=True))


def npo(policy: Policy, task: Task, steps: int, scout_steps: int, compare: bool) -> dict[str, dict[int, float]]:
    """The method from scout to end. Returns the held-out pass rates by step of plain GRPO and of NPO."""
    base, first = snapshot(policy), evaluate(policy.model, task)
    grpo, guided = {0: first}, {0: first}
    scout = train(policy, task, scout_steps, rates=grpo)
    guidance = sample_guidance(policy.model, task, asked := not_passed(task, scout), scout_steps)
    print(f"The guide solves {len(guidance)} of the {len(asked)} prompts that its scout had not passed.")
    if compare:  # the scout is plain GRPO: let it go on, and long enough to make up for the updates NPO spends on it
        train(policy, task, steps + scout_steps, rates=grpo)
    rollback(policy, base)
    replay = train(policy, task, scout_steps, guidance, rates=guided)
    print(f"{sum(g.injected for g in replay)} of {len(replay)} groups took guidance. Add {scout_steps} to NPO's steps.")
    train(policy, task, steps, rates=guided)
    return {"GRPO": grpo, "NPO": guided}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=120, help="updates of the run, the abandoned scout not counted")
    parser.add_argument("--scout", type=int, default=60, help="updates that the scout runs ahead")
    parser.add_argument("--rescue", type=int, default=0, help="no scout: so many rounds of samples for dead groups")
    parser.add_argument("--seed", type=int, default=0, help="order of the prompts and all sampling")
    parser.add_argument("--compare", action="store_true", help="let plain GRPO run on to --steps + --scout updates")
    parser.add_argument("--base", type=Path, default=Path.home() / ".cache/npo/example-base", help="made if not there")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if not (args.base / "tokenizer.json").exists():
        train_base(BuiltInModel(), ChainProblems(), args.base, lambda done, total: None)
    settings = Settings(seed=args.seed, rescue=args.rescue)
    task = Task(settings, load_problems(ChainProblems()), AutoTokenizer.from_pretrained(args.base, padding_side="left"))
    policy, rates = load_policy(args.base, settings), {}
    if args.rescue:
        train(policy, task, args.steps, rates=rates)
    columns = {"rescue": rates} if args.rescue else npo(policy, task, args.steps, args.scout, args.compare)
    print("\nstep   " + "".join(f"{name:>8}" for name in columns))
    for step in sorted({step for rates in columns.values() for step in rates}):
        print(f"{step:<7}" + "".join(f"{rates[step]:8.3f}" if step in rates else " " * 8 for rates in columns.values()))


if __name__ == "__main__":
    main()
