"""Which rows of a batch have to be computed, and in which order they are trained on."""

from collections.abc import Sequence

import torch

ROW = "rows"  # key in a batch: [B] where a row stood when it was generated
SAMPLED_LOGPS, SAMPLED_ENTROPIES = "sampled_logps", "sampled_entropies"  # keys in a batch: [B, T], while sampling


def moving_rows(inputs: dict[str, torch.Tensor], completion_mask: torch.Tensor) -> torch.Tensor:
    """[B] bool: rows that can move the policy, and those of a guide, whose distance is measured."""
    moving = (inputs["advantages"] != 0) & (completion_mask.sum(1) > 0)
    if (weights := inputs.get("importance_sampling_ratio")) is not None:  # 0: masked
        moving &= (weights != 0).any(1)
    return moving | inputs["guide_mask"].any(1) if "guide_mask" in inputs else moving


def live_rows(inputs: dict[str, torch.Tensor], completion_mask: torch.Tensor) -> torch.Tensor:
    """[B] bool: the rows that are computed, which are those that move the policy.

    One row is live in any case, the shortest: without one, nothing would have a gradient, not even 0, and with several
    processes the others would wait for it.
    """
    tokens, live = completion_mask.sum(1), moving_rows(inputs, completion_mask)
    if not live.any():
        live[torch.where(tokens > 0, tokens, tokens.max() + 1).argmin()] = True
    return live


def recorded(values: Sequence[Sequence[float]], like: torch.Tensor) -> torch.Tensor:
    """[B, T] of what was recorded while sampling, 0 behind the end of a row."""
    found = torch.zeros(like.shape, dtype=torch.float32)
    for row, of in zip(found, values, strict=True):
        row[: len(of)] = torch.tensor(of[: len(row)])  # a guide's shorter completion may have taken a row's place
    return found.to(like.device)


def in_groups(parts: list[dict]) -> list[dict]:
    """Parts of a generation batch, cut anew so that each has whole groups, as far as its size allows.

    TRL shuffles rows before it cuts a batch; here they are put back in order. The parts together hold the same rows.
    """
    if ROW not in parts[0] or any(isinstance(value, list | None) for value in parts[0].values()):
        return parts
    rows = torch.cat([part[ROW] for part in parts])
    order, size = rows.argsort(), len(parts[0][ROW])
    whole = {
        name: torch.cat([part[name] for part in parts])[order] if value.dim() else value
        for name, value in parts[0].items()
    }
    return [
        {name: value[at : at + size] if value.dim() else value for name, value in whole.items()}
        for at in range(0, len(rows), size)
    ]
