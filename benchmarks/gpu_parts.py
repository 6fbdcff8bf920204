"""The parts of `benchmarks.gpu_check`, each a process that prints what it finds as it finds it.

exact   The demo through the stages: scout, guidance, guided replay, evaluation; then the scout is replayed without
        guidance and compared bit for bit. What does not hold is reported, not failed.
steps   Random Qwen3 of 0.1 and 0.5 billion parameters in bf16 mixed precision, prompts of 256 tokens, completions of
        64, groups of 8, no dead group: seconds of an update and peak memory, TRL's GRPOTrainer and NPOTrainer in turn.
real    A pretrained model on questions about numbers: early bootstrap through the stages, compared as the demo is.
vision  A random Qwen3-VL of about 100 million parameters on pictures drawn here, whole and with adapters.
plan    What `npo plan` says of memory, disk, tokens and time beside what a training stage takes; then the largest
        micro batch that the plan says fits the free memory is trained.
"""

import argparse
import gc
import os
import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, base_folder, demo_config, markdown, say, settle
from benchmarks.gpu_stages import through_stages
from benchmarks.gpu_vision import AT_MOST, vision_parts
from benchmarks.number_problems import write_problems
from benchmarks.plan import CASES, LARGE, Case, compare, largest
from benchmarks.plan import TINY as TINY_CASE
from benchmarks.plan_compare import as_text
from benchmarks.steps import run_block
from benchmarks.steps_cases import NPO, TRL, long_prompts
from npo_core.config import RunConfig, load_config
from npo_core.process import die_with_parent

# Of the plan's cases those whose memory a GPU's own small things do not hide.
PLANNED = [*CASES[-2:], Case(**LARGE, micro_batch=64, bf16=True), Case(**LARGE, micro_batch=64, lora=16, bf16=True)]
FILLING = Case(12, 768, 12, 12, 2560, 32768, micro_batch=8, bf16=True, completion_tokens=512, prompts=1)
TINY_LIMIT = 600e6  # bytes, libraries included, that the tiny check pretends to have
SIZES = {"0.1 B": {"width": 768, "layers": 14}, "0.5 B": {"width": 1344, "layers": 24}}


def configure(options: argparse.Namespace, part: str) -> RunConfig:
    """The demo, as short as the check wants it; adapters are trained on its own base model."""
    changes: dict[str, Any] = {
        "execution__device": options.device,
        "training__bf16": "bf16" in part,
        "execution__deterministic": "deterministic" in part,
    }
    if not options.tiny:
        changes |= {"bootstrap__scout_steps": options.steps, "training__steps": options.steps}
    config = demo_config(options.tiny, **changes)
    if "adapters" not in part:
        return config
    model = {"kind": "pretrained", "path": str(base_folder(config)), "dtype": "bfloat16", "lora": {}}
    return config.model_validate({**config.model_dump(), "model": model})


def exact(options: argparse.Namespace, folder: Path) -> None:
    """The demo through the stages."""
    config = configure(options, options.part)
    show({f"demo, {config.bootstrap.scout_steps} updates": through_stages(config, folder / "run")})


def steps(options: argparse.Namespace, folder: Path) -> None:
    """TRL and NPO in turn."""
    for name, sizes in SIZES.items():
        model = folder / name.replace(" ", "")
        case = long_prompts(model, options.tiny, device=options.device, bf16=True, prompts=8, **sizes)
        case = case if options.tiny else replace(case, steps=5, warm_up=2)
        took: dict[str, list[float]] = {TRL: [], NPO: []}
        peaks = dict.fromkeys(took, 0.0)
        for kind in (TRL, NPO, NPO, TRL):
            forget_peak(options.device)
            took[kind].append(run_block(kind, case, folder / "trainer").figure(case, "wall"))
            peaks[kind] = max(peaks[kind], peak_gb(options.device))
            say(f"gpu-check: {name}: {kind} {1000 * took[kind][-1]:.0f} ms an update")
        means = {kind: statistics.mean(took[kind]) for kind in took}
        found = {
            "ms an update: TRL, NPO": ", ".join(f"{1000 * means[kind]:.0f}" for kind in took),
            "tokens a second, prompts counted": ", ".join(f"{case.tokens / means[kind]:,.0f}" for kind in took),
            "NPO / TRL": f"{means[NPO] / means[TRL]:.3f}",
            "peak memory, GB: TRL, NPO": ", ".join(f"{peaks[kind]:.2f}" for kind in took),
        }
        show({f"random Qwen3 of {name}, {case.tokens} tokens an update": found})
        if options.tiny:
            break


def real(options: argparse.Namespace, folder: Path) -> None:
    """A pretrained model, early bootstrap on questions about numbers."""
    fields = {
        "problems.train.path": str(write_problems(folder / "numbers.jsonl")),
        "model.path": options.model, "execution.device": options.device, "training.steps": 20,
        "training.snapshot_every": 10, "bootstrap.scout_steps": 20, "evaluation.every": 20,
    }  # fmt: skip
    if options.tiny:
        fields |= {
            "problems.held_out_rows": 8, "training.steps": 2, "training.prompts_per_step": 2, "training.group_size": 2,
            "training.micro_batch": 4, "training.snapshot_every": 1, "bootstrap.scout_steps": 2, "evaluation.every": 2,
        }  # fmt: skip
    config = load_config(ROOT / "deployments/configs/tasks/numbers-smollm2.yaml", fields)
    show({f"{Path(options.model).name}, {config.training.steps} updates": through_stages(config, folder / "run")})


def vision(options: argparse.Namespace, folder: Path) -> None:
    """A vision-language model through the stages, then the plan of it."""
    found, plan = vision_parts(options, folder / "vision")
    show(found)
    print(f"{plan}\n\n{AT_MOST}\n", flush=True)


def plan(options: argparse.Namespace, folder: Path) -> None:
    """Said and measured of some cases, and of the largest micro batch that is said to fit."""
    found = [compare(case, options.device) for case in ([TINY_CASE] if options.tiny else PLANNED)]
    print(f"{as_text(found)}\n", flush=True)
    filling = largest(TINY_CASE, "cpu", TINY_LIMIT) if options.tiny else largest(FILLING, options.device)
    try:
        last = compare(filling, options.device)
        said, measured = (last[side]["memory"] for side in ("said", "measured"))
        end = f"it trained; {said / 1e9:.2f} GB were said and {measured / 1e9:.2f} GB measured ({said / measured:.2f})"
    except SystemExit as error:
        end = f"it did not train: {error}"
    print(f"The largest micro batch that the plan says fits is {filling.micro_batch}: {end}.", flush=True)


def show(found: dict[str, dict[str, str]]) -> None:
    """Print findings: a column each, a line a finding."""
    names = list(dict.fromkeys(name for column in found.values() for name in column))
    rows = [[name, *(column.get(name, "-") for column in found.values())] for name in names]
    print(markdown(["", *found], rows), end="\n\n", flush=True)


def forget_peak(device: str) -> None:
    if device == "cuda":
        import torch

        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_gb(device: str) -> float:
    """Most memory that PyTorch had allocated on the device, in GB; 0 on CPU."""
    if device != "cuda":
        return 0.0
    import torch

    return torch.cuda.max_memory_allocated() / 1e9


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--model")
    options = parser.parse_args()
    die_with_parent(os.getppid())
    settle(demo_config(options.tiny))
    run = {"exact": exact, "steps": steps, "real": real, "vision": vision, "plan": plan}[options.part.split(",")[0]]
    with tempfile.TemporaryDirectory(prefix="npo-gpu-part-") as folder:
        run(options, Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
