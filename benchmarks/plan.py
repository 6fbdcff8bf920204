"""Compares what `npo plan` says with what a training stage takes: memory, disk, tokens and time.

    python -m benchmarks.plan [--device cpu] [--quick] [--json]

Random Qwen3 models, and a Qwen3-VL on pictures, each trained for three updates by a real stage in a process of its own
that has imported everything before. On a CPU: the most memory of the process that is not files', beyond what the
imports took; on a GPU: the most that PyTorch allocated. Disk: a snapshot's files. Time: the fastest update. The models
never end by themselves, so that completions have the longest length.
"""

import sys
import tempfile
from bisect import bisect_left
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.common import demo_config, finish, parser, settle
from benchmarks.plan_compare import as_text, checks_of, compare_memory, compare_training, never_end
from benchmarks.plan_images import image_cases
from npo_core.config import RunConfig
from npo_core.planning import look, make_plan, memory, model_size
from npo_core.planning.setting import Setting

UPDATES, GROUP, MOST_PROMPTS = 3, 8, 4096


@dataclass(frozen=True)
class Case:
    """A random model and how it is trained."""

    layers: int
    width: int
    heads: int
    key_value_heads: int
    intermediate: int
    vocabulary: int
    micro_batch: int
    dtype: str = "float32"
    bf16: bool = False
    checkpointing: bool = False
    lora: int | None = None  # rank of adapters
    completion_tokens: int = 64
    prompts: int = 4

    @property
    def name(self) -> str:
        form = "mixed" if self.bf16 and self.dtype == "float32" else self.dtype
        how = ", again" * self.checkpointing + (f", adapters of {self.lora}" if self.lora else "")
        return f"{self.layers} x {self.width}, {form}, micro {self.micro_batch}{how}"


MIDDLE = {"layers": 8, "width": 256, "heads": 4, "key_value_heads": 4, "intermediate": 1024, "vocabulary": 4096}
WIDE = {"layers": 8, "width": 512, "heads": 8, "key_value_heads": 4, "intermediate": 1536, "vocabulary": 8192}
LARGE = {"layers": 12, "width": 640, "heads": 10, "key_value_heads": 5, "intermediate": 1792, "vocabulary": 16384}
TINY = Case(2, 64, 2, 2, 128, 512, micro_batch=8, completion_tokens=6)
CASES = [
    Case(4, 128, 4, 4, 384, 1024, micro_batch=32),
    Case(**MIDDLE, micro_batch=8),
    Case(**MIDDLE, micro_batch=32),
    Case(**MIDDLE, micro_batch=32, checkpointing=True),
    Case(**MIDDLE, micro_batch=32, bf16=True),
    Case(**MIDDLE, micro_batch=32, bf16=True, dtype="bfloat16"),
    Case(**WIDE, micro_batch=16),
    Case(**WIDE, micro_batch=16, bf16=True, dtype="bfloat16", checkpointing=True),
    Case(**WIDE, micro_batch=16, bf16=True, dtype="bfloat16", lora=16),
    Case(**LARGE, micro_batch=8),
    Case(**LARGE, micro_batch=16, bf16=True, dtype="bfloat16"),
]
GENERATING = [Case(**MIDDLE, micro_batch=32), Case(**WIDE, micro_batch=32, dtype="bfloat16")]


def configure(case: Case, folder: Path, device: str) -> RunConfig:
    """Three updates of a random model that is saved to `folder`."""
    save_model(case, folder)
    changes = {
        "execution__device": device,
        "training__steps": UPDATES,
        "training__snapshot_every": UPDATES,
        "bootstrap__scout_steps": UPDATES,
        "evaluation__every": UPDATES,
        "training__prompts_per_step": case.prompts,
        "training__group_size": GROUP,
        "training__micro_batch": case.micro_batch,
        "training__max_completion_tokens": case.completion_tokens,
        "training__bf16": case.bf16,
        "training__gradient_checkpointing": case.checkpointing,
    }
    config = demo_config(True, **changes)
    model = {"kind": "pretrained", "path": str(folder), "dtype": case.dtype}
    model |= {"lora": {"rank": case.lora}} if case.lora else {}
    return config.model_validate({**config.model_dump(), "model": model})


def save_model(case: Case, folder: Path) -> None:
    import torch
    from transformers import Qwen3ForCausalLM

    from npo_core.config import BuiltInModel
    from npo_core.models.built_in import qwen3_config
    from npo_core.problems.tokenizer import make_tokenizer

    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    config = qwen3_config(BuiltInModel(layers=case.layers, width=case.width, heads=case.heads), tokenizer, operands=6)
    config.intermediate_size, config.vocab_size = case.intermediate, case.vocabulary
    config.num_key_value_heads, config.max_position_embeddings = case.key_value_heads, 2048
    Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    never_end(folder, tokenizer.eos_token_id)


def compare(case: Case, device: str) -> dict:
    """Training a case, said and measured, and the number of parameters."""
    with tempfile.TemporaryDirectory(prefix="npo-plan-") as name:
        return compare_training(case.name, configure(case, Path(name) / "model", device), Path(name) / "run")


def compare_others(case: Case, device: str, rows: int) -> list[dict]:
    """Memory of evaluating, and of scoring, so many completions at once, said and measured."""
    with tempfile.TemporaryDirectory(prefix="npo-plan-") as name:
        config = configure(case, Path(name) / "model", device)
        fields = {
            "problems": {"held_out": rows // 4},
            "evaluation": {"samples": 4},
            "guidance": {"chunk_prompts": rows},
        }
        config = config.model_copy(update={k: getattr(config, k).model_copy(update=v) for k, v in fields.items()})
        setting = Setting(config, model_size(config), device)
        scoring = memory.Memory("score", memory.loaded(setting), {"scoring": memory.scoring(setting, rows)})
        label = f"{rows} completions, {case.name.split(', micro')[0]}"
        return [
            compare_memory(f"{need.stage} {label}", need, config, Path(name) / need.stage)
            for need in (memory.evaluate(setting), scoring)
        ]


def largest(case: Case, device: str, limit: float | None = None) -> Case:
    """The case with the largest micro batch, all of a batch, that the plan says fits this machine, or `limit` bytes."""
    with tempfile.TemporaryDirectory(prefix="npo-plan-") as name:
        config = configure(case, Path(name), device)
        size, machine = model_size(config), look(config)
    machine = replace(machine, memory=limit or machine.memory)

    def beyond(prompts: int) -> bool:
        fields = {"prompts_per_step": prompts, "micro_batch": GROUP * prompts}
        wider = config.model_copy(update={"training": config.training.model_copy(update=fields)})
        needs = make_plan(wider, size, machine, "grpo").needs
        return next(need for need in needs if need.what == "train").verdict != "fits"

    prompts = max(bisect_left(range(1, MOST_PROMPTS), True, key=beyond), 1)
    return replace(case, prompts=prompts, micro_batch=GROUP * prompts)


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    options = options.parse_args()
    settle(demo_config(options.quick))
    found = [compare(case, options.device) for case in ([TINY] if options.quick else CASES)]
    others = [
        row
        for case in ([TINY] if options.quick else GENERATING)
        for row in compare_others(case, options.device, rows=16 if options.quick else 256)
    ]
    with_images, seeing = image_cases(options.device, options.quick)
    found, others = found + with_images, others + seeing
    text = as_text(found, others)
    return finish({"cases": found, "others": others}, checks_of(found, others), text, options)


if __name__ == "__main__":
    sys.exit(main())
