"""Rows beside a generation batch: appended slots of a group, and replayed successes.

TRL's batch is a dict of tensors with a row a completion. Rows are added to it before TRL shuffles and cuts it, so that
they go through the same loss; their advantages say how much they weigh.

Shape suffixes: B rows of the batch, E rows beside it, T tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from npo_core.errors import ConfigError
from npo_core.guidance.trajectory import Trajectory
from npo_core.training.live_rows import ROW, SAMPLED_ENTROPIES, SAMPLED_LOGPS
from npo_core.training.vision import NUMBERS

GUIDE_MASK, GUIDE_LOGPS, RATIO = "guide_mask", "guide_logps", "guide_ratio"  # keys in a batch
RATIOS = ("off", "guide", "shaped_guide", "shaped_policy")  # RATIO [B] holds the number of one of these
FILLED = {  # what rows beside the batch have of what others have a token
    "importance_sampling_ratio": 1.0,
    "sampling_per_token_logps": 0.0,
    "old_per_token_logps": 0.0,
    SAMPLED_LOGPS: 0.0,
    SAMPLED_ENTROPIES: 0.0,
}


@dataclass(frozen=True, slots=True)
class RowBeside:
    """A trajectory that is trained on as a row of its own.

    advantage   of an appended slot, against its group; None: a replayed row, which `weight` describes
    weight      of the token mean of its log-probability, in rows of the batch
    ratio       one of `RATIOS`
    group       of an appended slot, the place of its group in the batch
    """

    trajectory: Trajectory
    advantage: float | None = None
    weight: float = 0.0
    ratio: str = "off"
    group: int | None = None


@dataclass(frozen=True, slots=True)
class Shares:
    """How a batch is split, and what its loss is divided by.

    loss            TRL's loss type
    rows            of the batch, of all processes
    processes, parts  among which rows are dealt out: each gets equally many
    max_tokens      of a completion, what dr_grpo divides by
    """

    loss: str
    rows: int
    processes: int
    parts: int
    max_tokens: int

    def padded(self, beside: int) -> int:
        """Rows beside the batch that each process has, empty ones included."""
        per_process = -(-beside // self.processes)
        return -(-per_process // self.parts) * self.parts


def append(
    output: dict,
    rows: Sequence[RowBeside],
    prompts: Sequence[list[int]],
    numbers: Sequence[int],
    shares: Shares,
    process: int,
    pad_id: int,
) -> dict:
    """The batch of a process with its share of the rows beside it.

    The loss of the batch stays what it was without replayed rows, to which they are added; appended slots count as rows
    of the batch.

    Args:
        rows: of all processes, the same on each. prompts: token ids of each row's prompt. numbers: their rows in the
            data, for images.
    """
    share = shares.padded(len(rows))
    mine = slice(process, None, shares.processes)
    own, own_prompts, own_numbers = list(rows[mine]), list(prompts[mine]), list(numbers[mine])
    advantages, scale, counted_tokens = weigh(output, own, rows, share, shares)
    added = completions(output, own, own_prompts, share, pad_id)
    added["advantages"] = torch.tensor(advantages, dtype=torch.float32)
    added[RATIO] = torch.tensor([RATIOS.index(row.ratio) for row in own] + [0] * (share - len(own)))
    added[ROW] = torch.arange(len(output["advantages"]), len(output["advantages"]) + share)
    added[NUMBERS] = torch.tensor(own_numbers + own_numbers[:1] * (share - len(own)) or [0] * share)
    base = output | {"advantages": output["advantages"] * scale}
    base["num_items_in_batch"] = output["num_items_in_batch"] + counted_tokens
    added |= filled(output, added["completion_ids"].shape[1], share)
    return {name: joined(name, value, added, pad_id) for name, value in base.items()}


def weigh(
    output: dict, own: Sequence[RowBeside], rows: Sequence[RowBeside], share: int, shares: Shares
) -> tuple[list[float], float, int]:
    """Advantages of this process's rows beside the batch, the factor of all others', and tokens that count as others'.

    TRL's loss is a mean over tokens (dapo) or rows (grpo, dr_grpo), empty rows included, of advantage x ratio.
    """
    appended = [row for row in rows if row.advantage is not None]
    tokens = sum(len(row.trajectory.token_ids) for row in appended)
    all_rows = shares.rows + share * shares.processes
    by_token = shares.loss == "dapo"
    scale = 1.0 if by_token else all_rows / (shares.rows + len(appended))
    items = float(output["num_items_in_batch"]) + tokens

    def advantage(row: RowBeside) -> float:
        if row.advantage is not None:
            return row.advantage * scale
        if by_token:
            return row.weight * items / (shares.rows * len(row.trajectory.token_ids))
        per_row = row.weight * all_rows / shares.rows
        return per_row * shares.max_tokens / len(row.trajectory.token_ids) if shares.loss == "dr_grpo" else per_row

    return [advantage(row) for row in own] + [0.0] * (share - len(own)), scale, tokens


def completions(output: dict, own: Sequence[RowBeside], prompts: Sequence[list[int]], share: int, pad_id: int) -> dict:
    """Prompts and completions of this process's rows, and of empty rows up to its share."""
    first = output["prompt_mask"][0].bool()
    filler = output["prompt_ids"][0][first].tolist()  # an empty row has some prompt, and no completion
    prompts = [*prompts, *[filler] * (share - len(own))]
    wide, long = max(map(len, prompts)), max((len(row.trajectory.token_ids) for row in own), default=1)
    added = {
        "prompt_ids": torch.tensor([[pad_id] * (wide - len(ids)) + list(ids) for ids in prompts]),
        "prompt_mask": torch.tensor([[0] * (wide - len(ids)) + [1] * len(ids) for ids in prompts]),
        "completion_ids": torch.full((share, long), pad_id),
        "completion_mask": torch.zeros(share, long, dtype=torch.long),
        GUIDE_LOGPS: torch.zeros(share, long),
    }
    for place, row in enumerate(own):
        size = len(row.trajectory.token_ids)
        added["completion_ids"][place, :size] = torch.tensor(row.trajectory.token_ids.tolist())
        added["completion_mask"][place, :size] = 1
        added[GUIDE_LOGPS][place, :size] = torch.tensor(row.trajectory.logprobs.tolist())
    return added | {GUIDE_MASK: added["completion_mask"].clone()}


def filled(output: dict, long: int, share: int) -> dict[str, torch.Tensor]:
    """What rows beside the batch have of `FILLED`, as wide as their completions may make the batch: `long` tokens."""
    width, found = max(output["completion_ids"].shape[1], long), {}
    for name in FILLED.keys() & output.keys():
        per_sequence = name == "importance_sampling_ratio" and output[name].shape[1] == 1
        found[name] = torch.full((share, 1 if per_sequence else width), FILLED[name])
    return found


def joined(name: str, value: object, added: dict[str, torch.Tensor], pad_id: int) -> object:
    """A tensor of the batch with the rows beside it behind its own."""
    if isinstance(value, torch.Tensor) and value.dim() == 0:
        return value
    if not isinstance(value, torch.Tensor) or name not in added:
        raise ConfigError(f"Rows beside the batch (appended slots, mix.replay) cannot go with {name} of this trainer.")
    new = added[name].to(value.device, value.dtype)
    if value.dim() == 1:
        return torch.cat([value, new])
    fill = pad_id if name in ("prompt_ids", "completion_ids") else FILLED.get(name, 0)
    width = max(value.shape[1], new.shape[1])
    return torch.cat([padded(rows, width, fill, left=name.startswith("prompt")) for rows in (value, new)])


def padded(rows: torch.Tensor, width: int, fill: float, left: bool) -> torch.Tensor:
    """Rows [N, T] as [N, width]."""
    missing = width - rows.shape[1]
    return torch.nn.functional.pad(rows, (missing, 0) if left else (0, missing), value=fill)
