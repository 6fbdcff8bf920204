"""The gate and the baseline of NPO as pure functions on rewards.

Shape suffixes: P prompts (groups), G completions of a group, T tokens, B = P * G rows.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from trl.trainer.utils import nanstd


def pass_rates(accuracy_B: torch.Tensor, group_size: int) -> torch.Tensor:
    """On-policy pass rate p_hat of each group, read from all n samples.

    Args:
        accuracy_B: accuracy of each completion in [0, 1], NaN where the verifier gave none; groups are contiguous.

    Returns:
        [P] mean over the known accuracies of a group; NaN where none is known.
    """
    return accuracy_B.view(-1, group_size).nanmean(dim=1)


@dataclass(frozen=True)
class InjectionSettings:
    """How a trajectory enters a group; the defaults are the paper's. Words as in `npo_core.config.Injection`."""

    gate: Literal["pass_rate", "dead", "every"] = "pass_rate"
    tau_gate: float = 0.6  # a group takes guidance when its on-policy pass rate is below this
    start_above: float | None = None  # the gate stays shut in batches whose pass rate is not above this
    place: Literal["last", "random_wrong", "append"] = "last"
    slots: int = 1  # trajectories a group takes, where they are appended
    importance_sampling: Literal["off", "guide", "shaped_guide", "shaped_policy"] = "off"
    gamma: float = 0.1  # of the shaped ratios
    baseline: Literal["mixed", "on_policy_only"] = "mixed"  # whose mean the advantages are taken against


def gate(pass_rate_P: torch.Tensor, settings: InjectionSettings) -> torch.Tensor:
    """[P] bool: the groups that may take a trajectory. An unknown pass rate keeps the gate shut."""
    known_P = ~pass_rate_P.isnan()
    if settings.start_above is not None and not pass_rate_P.nanmean() > settings.start_above:
        return torch.zeros_like(known_P)
    if settings.gate == "every":
        return known_P
    return pass_rate_P < settings.tau_gate if settings.gate == "pass_rate" else pass_rate_P == 0


def slot(accuracy_G: Sequence[float], place: str, seed: int) -> int | None:
    """Which completion of a group gives way: the last, or one of the wrong ones, drawn by seed; None: none is wrong."""
    if place == "last":
        return len(accuracy_G) - 1
    wrong = [i for i, accuracy in enumerate(accuracy_G) if accuracy == 0]
    return random.Random(seed).choice(wrong) if wrong else None


def group_advantages(
    rewards_PG: torch.Tensor, baseline_PG: torch.Tensor, scale_rewards: str, eps: float = 1e-4
) -> torch.Tensor:
    """Advantages against the mean of some slots of each group; the scale is that of the whole mixed group.

    Args:
        rewards_PG: rewards after injection, NaN where unknown; baseline_PG: bool, the slots whose mean is taken.
        scale_rewards: TRL's `group`, `batch` or `none`; eps is TRL's.

    Returns:
        [P, G] advantages, 0 where the reward is unknown. Seven wrong and one injected, which is left out of the
        baseline, give 0 and +1 without scaling.
    """
    kept_PG = (baseline_PG & ~rewards_PG.isnan()).to(rewards_PG.dtype)
    baseline_P1 = (rewards_PG.nan_to_num() * kept_PG).sum(1, keepdim=True) / kept_PG.sum(1, keepdim=True)
    advantages_PG = rewards_PG - baseline_P1
    if scale_rewards != "none":
        advantages_PG = advantages_PG / (spread(rewards_PG, scale_rewards) + eps)
    return advantages_PG.nan_to_num()


def spread(rewards_PG: torch.Tensor, scale_rewards: str) -> torch.Tensor:
    """The standard deviation of the known rewards, of each group [P, 1] or of the batch."""
    over = {"dim": 1, "keepdim": True} if scale_rewards == "group" else {}
    std = rewards_PG.std(**over)  # NaN where a reward is; only there it is taken over the others
    return torch.where(std.isnan(), nanstd(rewards_PG, **over), std) if std.isnan().any() else std


def log_shaped(log_ratio: torch.Tensor, gamma: float) -> torch.Tensor:
    """log of f(x) = x / (x + gamma) from log x, elementwise: LUFFY's and ExGRPO's shaped ratio."""
    return -torch.nn.functional.softplus(math.log(gamma) - log_ratio)


class GroupCounts(NamedTuple):
    """What became of the groups of one batch, as counts."""

    all_wrong: int  # dead before injection: no sample right
    all_right: int  # dead before injection: every sample right
    injected: int  # groups whose last slot was replaced
    rescued: int  # groups that were all wrong and got a correct slot


def count_groups(pass_rate_P: torch.Tensor, injected_P: torch.Tensor) -> GroupCounts:
    """Count dead, injected and rescued groups from on-policy pass rates [P] and injections [P]."""
    wrong_P, right_P = pass_rate_P == 0, pass_rate_P == 1
    return GroupCounts(int(wrong_P.sum()), int(right_P.sum()), int(injected_P.sum()), int((wrong_P & injected_P).sum()))


class GuideRatio(NamedTuple):
    """How far the policy is from the guide on the guide's own tokens, in nats a token."""

    log_ratio: float  # mean of log pi_policy - log pi_guide
    kl: float  # KL(guide || policy), estimator k3: mean of (r - 1) - log r with r = pi_policy / pi_guide


def guide_ratio(policy_logps: torch.Tensor, guide_logps: torch.Tensor, mask: torch.Tensor) -> GuideRatio:
    """Compare log-probabilities [rows, T] of the same guide tokens where `mask` [rows, T] is 1; see docs/method.md."""
    log_r = (policy_logps - guide_logps)[mask.bool()].float()
    return GuideRatio(log_r.mean().item(), (torch.expm1(log_r) - log_r).mean().item())
