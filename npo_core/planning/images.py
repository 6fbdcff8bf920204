"""Memory of images: their pixels, and what a vision tower makes of them; found as the formulas of `memory` were.

A prompt counts as all image, with as many tokens as it may have. In training every completion has its prompt's images
beside it; engines read them once a prompt. Counted per patch, of which several are merged into a token.
"""

from math import ceil

from npo_core.config import PretrainedModel
from npo_core.planning.setting import Setting

PIXEL = 4  # bytes: processors give float32
KEPT_BELOW, KEPT_SHARE = 2**25, 0.8  # glibc keeps freed blocks below so many bytes, for each thread; of them, measured
PASSING = 46  # bytes a patch and hidden dimension: float32 copies of positions, queries and keys, in any precision


def patches(setting: Setting, rows: int) -> int:
    """Of so many rows; 0 where problems have no images, or the tower is built otherwise than those known here."""
    tower = setting.size.tower
    return rows * setting.prompt_tokens * tower.merged if setting.images and tower else 0


def pixels(setting: Setting, rows: int) -> dict[str, float]:
    """The part that goes beside so many rows; none where there are no patches."""
    number, tower = patches(setting, rows), setting.size.tower
    return {"images": number * tower.patch * PIXEL} if number and tower else {}


def read_ahead(setting: Setting) -> float:
    """The images that a training process keeps of its share of a batch, each prompt's once."""
    prompts = ceil(setting.config.training.prompts_per_step / setting.processes)
    return sum(pixels(setting, prompts).values())


def beside(setting: Setting, rows: int, phases: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Phases of so many rows with their images, and the one in which the tower passes them, keeping its outputs."""
    number, tower = patches(setting, rows), setting.size.tower
    if not number or tower is None:
        return phases
    wide, seen = setting.product_bytes, pixels(setting, rows)
    block = max(PASSING * tower.hidden, wide * (4 * tower.hidden + 2 * tower.intermediate))
    outputs = tower.outputs * setting.size.hidden * wide / tower.merged
    passing = {"images": seen | {"vision tower": number * (block + outputs)}}
    return {name: parts | seen for name, parts in phases.items()} | passing


def left_behind(setting: Setting, phases: dict[str, dict[str, float]]) -> float:
    """On a CPU, of the work of a tower that is trained whole, in all phases but the largest."""
    number = 0 if setting.size.adapters else patches(setting, setting.update_rows)
    tower = setting.size.tower
    if not number or tower is None or number * tower.hidden * setting.product_bytes >= KEPT_BELOW:
        return 0.0
    return KEPT_SHARE * sum(sorted(parts.get("vision tower", 0.0) for parts in phases.values())[:-1])


def update(setting: Setting) -> dict[str, float]:
    """What autograd keeps of a micro batch's images; of a tower that is not trained, only with checkpointing."""
    number, tower, training = patches(setting, setting.update_rows), setting.size.tower, setting.config.training
    if not number or tower is None:
        return {}
    again, wide = training.gradient_checkpointing, setting.product_bytes
    lora = setting.config.model.lora if isinstance(setting.config.model, PretrainedModel) else None
    if setting.size.adapters and lora and not lora.vision and not again:
        return pixels(setting, setting.update_rows)
    block = block_bytes(setting)
    blocks = tower.layers * (wide * tower.hidden if again else block) + again * block
    ends = wide * ((3 * tower.outputs + 2) * tower.hidden + tower.patch)
    return pixels(setting, setting.update_rows) | {"vision tower": number * (blocks + ends)}


def block_bytes(setting: Setting) -> float:
    """Bytes a patch that autograd keeps of one block without checkpointing; 0 without a tower."""
    tower, wide = setting.size.tower, setting.product_bytes
    if tower is None:
        return 0.0
    # On a GPU, autocast passes norms in float32: copies of two inputs.
    norms = 4 * tower.hidden if setting.device == "cuda" and setting.config.training.bf16 else 0
    return wide * (11 * tower.hidden + 2 * tower.intermediate) + norms
