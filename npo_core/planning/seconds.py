"""Time of a stage, from operations and bytes: 2 x parameters a token forwards, 6 x for an update, and attention."""

from math import ceil

from npo_core.planning.images import patches
from npo_core.planning.setting import Setting
from npo_core.planning.size import ModelSize
from npo_core.planning.speed import Speed
from npo_core.recipes.work import Work

OCCUPANCY = 0.88  # of places in the model while rows wait, of which some have ended; measured (docs/planning.md)


def seconds(stage: Work, setting: Setting, speed: Speed | None, length: float) -> float | None:
    """Seconds of a stage whose completions have `length` tokens on average; None where something is not known."""
    if speed is None or stage.completions is None:
        return None
    rows, sequences, at_once = sequences_of(stage, stage.completions, setting)
    flops = speed.flops(setting.product_bytes)
    passes = passed(setting, length) / flops
    scored = stage.scored / (1 if stage.stage == "train" else setting.generating)
    gathered = gathering(setting, speed) if stage.stage == "train" else 0.0
    total = sequences * generation(setting, speed, flops, rows, at_once, length) + scored * passes
    if stage.updates:
        total += gathered * ceil(stage.completions / setting.config.training.batch)  # once a rollout
        # Backward is twice forward; without gradients of the weights, once. Checkpointing goes forward again.
        times = (2 if setting.size.adapters else 3) + setting.config.training.gradient_checkpointing
        computing = times * passes * sequences * rows  # however many updates a batch is split into
        total += max(computing, exchanging(setting, speed, gathered, sequences * rows, stage.updates))
    return total


def gathering(setting: Setting, speed: Speed) -> float:
    """Seconds of FSDP2 to bring all weights together once; 0 where each process has them."""
    others = (setting.sharded - 1) / setting.sharded
    return others * setting.size.parameters * setting.product_bytes / speed.link


def exchanging(setting: Setting, speed: Speed, gathered: float, rows: int, updates: int) -> float:
    """Seconds that a process's updates take for weights and gradients on their way, which computing hides in part."""
    gradients = (setting.processes - 1) / setting.processes * setting.size.trainable * 4 / speed.link
    if setting.sharded > 1:  # every micro batch gathers weights twice, and scatters the sums of gradients
        return ceil(rows / setting.micro_batch) * (2 * gathered + gradients)
    return 2 * gradients * updates


def sequences_of(stage: Work, completions: int, setting: Setting) -> tuple[int, int, int]:
    """Completions that a process samples in one sequence, how often, and how many of them are in the model at once.

    Training splits a batch among processes; other stages deal sequences out to them.
    """
    if stage.stage != "train":
        rows = max(min(stage.sequence, completions), 1)
        return rows, ceil(ceil(completions / rows) / setting.generating), min(stage.at_once, rows)
    rows = max(min(stage.at_once, completions) // setting.processes, 1)
    return rows, ceil(completions / setting.processes / rows), min(rows, setting.rows)


def passed(setting: Setting, length: float) -> float:
    """Operations of one sequence's forward pass."""
    size, tokens = setting.size, setting.prompt_tokens + length
    seen = 2 * size.vision * patches(setting, 1)
    return tokens * (2 * language(size) + 4 * size.layers * size.heads * size.head * tokens) + seen


def language(size: ModelSize) -> int:
    """Parameters that a token passes; patches pass those of a vision tower."""
    return size.active - size.vision


def generation(setting: Setting, speed: Speed, flops: float, rows: int, at_once: int, length: float) -> float:
    """Seconds of a sequence: its prompts, then a token of every row in the model at a time.

    While rows wait, each place has one of mean length after another, and some are empty; the last row may take as long
    as is allowed. The cache is as wide as its longest row all the time. Never more than of one batch after another.
    """
    size, longest = setting.size, setting.completion_tokens
    prompts = 2 * (rows * setting.prompt_tokens * language(size) + patches(setting, rows) * size.vision) / flops
    in_batches = rows / at_once * longest * one_pass(setting, speed, flops, at_once, length / 2)
    passes = longest + (rows / at_once - 1) * length / OCCUPANCY
    return prompts + min(in_batches, passes * one_pass(setting, speed, flops, at_once, longest))


def one_pass(setting: Setting, speed: Speed, flops: float, rows: int, width: float) -> float:
    """Seconds for a token of every row, beside a prompt and `width` tokens of each in the cache."""
    size, wide = setting.size, setting.product_bytes  # weights and cache have the format that is computed in
    cached = 2 * size.layers * size.key_value_heads * size.head * wide * (setting.prompt_tokens + width)
    computing = rows * 2 * language(size) / flops
    reading = ((size.parameters - size.vision) * wide + rows * cached) / speed.bandwidth
    return max(computing, reading) + size.layers * speed.layer
