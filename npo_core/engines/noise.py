"""Random numbers by key: what a token is drawn with follows from (seed, row, position) and from nothing else.

Neither the size of a batch, nor the rows that have left it, nor the number of processes or the device changes a draw.
"""

import torch

# A hash of 32 bits with few biases, "lowbias32": https://nullprogram.com/blog/2018/07/31/ (public domain).
SHIFTS, FACTORS = (16, 15, 16), (0x7FEB352D, 0x846CA68B - 2**32)
MOST = 2**22  # values drawn at once on a CPU, so that they stay in its cache


def mixed(values: torch.Tensor) -> torch.Tensor:
    """The hash of each value, int32 as unsigned, in place."""
    for number, shift in enumerate(SHIFTS):
        values ^= (values >> shift) & (2 ** (32 - shift) - 1)
        if number < len(FACTORS):
            values *= FACTORS[number]
    return values


def hashed(number: int) -> int:
    """The hash of a number's low 32 bits, as int32, without a tensor."""
    value = number % 2**32
    for place, shift in enumerate(SHIFTS):
        value ^= value >> shift
        if place < len(FACTORS):
            value = value * FACTORS[place] % 2**32
    return (value + 2**31) % 2**32 - 2**31


def gumbel(seed: int, rows: torch.Tensor, positions: torch.Tensor | int, size: int) -> torch.Tensor:
    """Standard Gumbel noise [rows, size] for the token at a position of each row, float32.

    Args:
        seed: any integer of up to 64 bits. rows: [B] numbers of rows, int64, on the device that the noise is wanted on.
        positions: of each row [B], int64, or the same of all.
    """
    keys = torch.stack([rows, torch.as_tensor(positions, device=rows.device).expand_as(rows)]).to(torch.int32)
    parts = keys.split(max(1, MOST // size), 1) if rows.device.type == "cpu" else [keys]
    return torch.cat([_gumbel(seed, part[0], part[1], size) for part in parts])


def _gumbel(seed: int, of_row: torch.Tensor, position: torch.Tensor, size: int) -> torch.Tensor:
    halves = (seed, seed >> 32)
    starts = [hashed(half + 0x9E3779B9 * (1 + number)) for number, half in enumerate(halves)]
    keys = mixed(mixed(torch.stack([of_row ^ start for start in starts])) ^ position)  # two of 32 bits a row
    numbers = torch.arange(size, dtype=torch.int32, device=of_row.device)
    bits = mixed(mixed(numbers ^ keys[0][:, None]) ^ keys[1][:, None])
    uniform = (bits & 0x7FFFFFFF).float().add_(0.5).mul_(2.0**-31)  # in (0, 1]; fine where it is small
    return uniform.neg_().log1p_().neg_().log_().neg_()


def draw(logits: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens [B] of logits [B, V] float32, their log-probabilities and the entropies of what they were drawn from.

    The noise is used up: a vocabulary of a large batch is not held more often than it must be.
    """
    logps = logits.log_softmax(-1)
    tokens = noise.add_(logps).argmax(-1)
    taken = logps.gather(1, tokens[:, None])[:, 0]
    probabilities = logps.exp_()
    entropies = torch.special.entr(probabilities, out=probabilities).sum(-1)  # 0 where a token cannot come
    return tokens, taken, entropies
