"""Disk that a run takes in its workspace, in bytes."""

from collections.abc import Sequence
from pathlib import Path

from npo_core.config import BuiltInModel
from npo_core.planning.setting import Setting
from npo_core.recipes.work import Work
from npo_core.timeline import folder_bytes

TENSOR = 900  # bytes beside the values of a tensor: names, its place in the files, AdamW's count of steps
TENSORS_A_BLOCK, ADAPTERS_A_BLOCK = 11, 14
GUIDANCE_TOKEN = 5.3  # bytes of a guidance cache a token (docs/benchmarks.md)
SMALL = 4e3  # settings, data position, and the built-in tokenizer
TOKENIZER = 12e6  # where the model's folder is not at hand: Qwen3's
WEIGHTS = {".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack"}


def disk(setting: Setting, stages: Sequence[Work]) -> dict[str, float]:
    """Bytes by part; branches that were abandoned keep their snapshots."""
    base, _ = snapshot_bytes(setting)
    number = sum(stage.snapshots for stage in stages)
    at_once = "" if setting.config.retention == "all" else ", some without AdamW's moments"
    asked = sum(stage.scored for stage in stages if stage.stage == "guide")
    return {
        "base model": base,
        f"{number} snapshots{at_once}": held(setting, stages),
        "guidance, at most": asked * setting.completion_tokens * GUIDANCE_TOKEN,
    }


def least_disk(setting: Setting, stages: Sequence[Work]) -> float:
    """Bytes of the base model and of the snapshots that are made whatever the run decides."""
    base, _ = snapshot_bytes(setting)
    return base + held(setting, [stage for stage in stages if stage.sure])


def held(setting: Setting, stages: Sequence[Work]) -> float:
    """Bytes of all snapshots at the time when there are most.

    Where the run keeps what is needed alone, snapshots that a branch left behind have lost their optimizer's state
    before it is trained on.
    """
    _, each = snapshot_bytes(setting)
    training = [stage for stage in stages if stage.stage == "train"]
    if setting.config.retention == "all":
        return each * sum(stage.snapshots for stage in training)
    left = each - 2 * setting.size.trainable * setting.trained_bytes
    most = 0.0
    for number, now in enumerate(training):
        begun = min(stage.start for stage in training if stage.branch == now.branch)
        sizes = [
            stage.snapshots * each if stage.branch == now.branch else split(stage, begun, each, left)
            for stage in training[: number + 1]
        ]
        most = max(most, sum(sizes))
    return most


def split(stage: Work, begun: int, each: float, left: float) -> float:
    """Bytes of a stage's snapshots when a branch that began at an update of its path goes on: those later were left."""
    share = min(max((begun - stage.start) / max(stage.updates, 1), 0.0), 1.0)
    return stage.snapshots * (share * each + (1 - share) * left)


def snapshot_bytes(setting: Setting) -> tuple[float, float]:
    """Of the base model's snapshot, and of every later one: weights, or adapters, and both of AdamW's moments."""
    size, beside = setting.size, SMALL + tokenizer_bytes(setting)
    tensors = TENSOR * size.layers * (ADAPTERS_A_BLOCK if size.adapters else TENSORS_A_BLOCK)
    base = size.parameters * setting.weight_bytes + beside
    return base, 3 * size.trainable * setting.trained_bytes + tensors + beside


def tokenizer_bytes(setting: Setting) -> float:
    """The files beside the weights, which every snapshot holds so that any tool loads it."""
    model = setting.config.model
    if isinstance(model, BuiltInModel):
        return 0.0
    folder = Path(model.path)
    if not folder.is_dir():
        return TOKENIZER
    return float(sum(path.stat().st_size for path in folder.glob("*.*") if path.suffix not in WEIGHTS))


def there(folder: Path | None) -> float:
    """Bytes of snapshots and guidance that a workspace has already."""
    if folder is None:
        return 0.0
    return float(sum(folder_bytes(folder / part) for part in ("snapshots", "guidance")))
