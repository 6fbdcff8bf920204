"""Checks training on the GPU at hand and writes what it found into docs/gpu.md.

    python -m benchmarks.gpu_check                     ends at once, with a sentence, where there is no CUDA device
    python -m benchmarks.gpu_check --device cpu --tiny the same code at a size that measures nothing, nothing written

1. The demo through the stages, in fp32, in bf16 mixed precision, and with adapters on a base in bf16: scout, guidance,
   guided replay, evaluation; then the scout is replayed without guidance and compared bit for bit. What does not hold
   is reported, not failed.
2. A random Qwen3 of about 100 million parameters in bf16 mixed precision with a larger batch: seconds of a step and
   peak memory, TRL's GRPOTrainer and NPOTrainer in turn. Its guidance is the worked solutions; it solves nothing.
3. What `npo plan` says of memory, disk, tokens and time of small random models beside what a training stage takes; then
   the largest micro batch that the plan says fits the free memory is trained.
4. A random Qwen3-VL of about 100 million parameters on pictures drawn here, in bf16, whole and with adapters: through
   the stages and compared as the demo is, and what the plan says beside what training takes.
"""

import argparse
import platform
import statistics
import sys
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, base_folder, demo_config, markdown, say, settle, trainer_parts
from benchmarks.gpu_stages import through_stages
from benchmarks.gpu_vision import AT_MOST, vision_parts
from benchmarks.plan import CASES, Case, compare, largest
from benchmarks.plan import TINY as TINY_CASE
from benchmarks.plan_compare import as_text
from benchmarks.snapshots import TINY, random_model
from benchmarks.steps import run_block
from benchmarks.steps_cases import NPO, TRL, built
from benchmarks.steps_cases import Case as StepsCase
from npo_core.config import RunConfig
from npo_core.problems import ProblemSet

DOCS = ROOT / "docs/gpu.md"
LARGE = {"width": 768, "layers": 12, "heads": 12, "intermediate": 2560}  # 99 M
VARIANTS = {"fp32": (False, False), "bf16": (True, False), "bf16, adapters": (True, True)}
FILLING = Case(12, 768, 12, 12, 2560, 32768, micro_batch=8, bf16=True, completion_tokens=512, prompts=1)
TINY_LIMIT = 600e6  # bytes, libraries included, that the tiny check pretends to have


def configure(options: argparse.Namespace, bf16: bool, adapters: bool = False) -> RunConfig:
    """The demo, as short as the check wants it; adapters are trained on its own base model."""
    changes: dict[str, Any] = {"execution__device": options.device, "training__bf16": bf16}
    if not options.tiny:
        changes |= {"bootstrap__scout_steps": options.steps, "training__steps": options.steps}
    config = demo_config(options.tiny, **changes)
    if not adapters:
        return config
    model = {"kind": "pretrained", "path": str(base_folder(config)), "dtype": "bfloat16", "lora": {}}
    return config.model_validate({**config.model_dump(), "model": model})


def solutions(problems: ProblemSet, model: Path) -> dict[str, Any]:
    """Prompt id -> its worked solution as a trajectory; for models that solve nothing."""
    import numpy as np
    from transformers import AutoTokenizer

    from npo_core.guidance.trajectory import Trajectory

    tokenizer = AutoTokenizer.from_pretrained(model)
    found = {}
    for problem in problems.train:
        ids = np.array([*tokenizer(problem.answer)["input_ids"], tokenizer.eos_token_id], np.int32)
        logprobs, rewards = np.zeros(len(ids), np.float32), np.ones(1, np.float32)
        found[problem.id] = Trajectory(
            problem.id, ids, logprobs, rewards, "correct", guide="solutions", guide_step=0, sample=0, samples=1, seed=0
        )
    return found


def large_model(config: RunConfig, options: argparse.Namespace, folder: Path) -> dict[str, str]:
    """TRL and NPO in turn on the large model. Name -> finding."""
    from npo_core.problems.load import load_problems

    parameters = random_model(folder / "model", **(TINY if options.tiny else LARGE))
    problems = load_problems(config.problems)
    sizes = {"bf16": True} if options.tiny else {"bf16": True, "prompts_per_step": 64, "micro_batch": 512}
    training = config.training.model_copy(update=sizes)
    steps, warm_up = (6, 2) if options.tiny else (20, 5)
    model = folder / "model"
    guidance = solutions(problems, model)

    def make(kind: str, output: Path) -> Any:
        parts = trainer_parts(model, training, problems, seed=config.seed, output=output, device=options.device)
        return built(kind, parts, guidance=guidance, until=steps)

    case = StepsCase("large model", 1.0, make, steps, warm_up, 1, injects=True)
    found: dict[str, list[float]] = {TRL: [], NPO: []}
    peaks: dict[str, float] = {}
    for kind in (TRL, NPO, NPO, TRL):
        forget_peak(options.device)
        found[kind].append(1000 * run_block(kind, case, folder / "trainer").figure(case, "wall"))
        peaks[kind] = max(peaks.get(kind, 0.0), peak_gb(options.device))
        say(f"gpu-check: {kind} {found[kind][-1]:.1f} ms a step")
    means = {kind: statistics.mean(found[kind]) for kind in found}
    return {
        "parameters; completions a step": f"{parameters / 1e6:.1f} M; {training.batch}",
        "ms a step: TRL, NPO guided": f"{means[TRL]:.1f}, {means[NPO]:.1f}",
        "NPO / TRL": f"{means[NPO] / means[TRL]:.3f}",
        "peak memory, GB: TRL, NPO guided": f"{peaks[TRL]:.2f}, {peaks[NPO]:.2f}",
    }


def plan_parts(options: argparse.Namespace) -> str:
    """Said and measured of all cases, and of the largest micro batch that is said to fit."""
    found = [compare(case, options.device) for case in ([TINY_CASE] if options.tiny else CASES)]
    filling = largest(TINY_CASE, "cpu", TINY_LIMIT) if options.tiny else largest(FILLING, options.device)
    try:
        found.append(compare(filling, options.device))
        said, measured = (found[-1][side]["memory"] for side in ("said", "measured"))
        end = f"it trained; {said / 1e9:.2f} GB were said and {measured / 1e9:.2f} GB measured ({said / measured:.2f})"
    except SystemExit as error:
        end = f"it did not train: {error}"
    return f"{as_text(found)}\n\nThe largest micro batch that the plan says fits is {filling.micro_batch}: {end}."


def forget_peak(device: str) -> None:
    if device == "cuda":
        import gc

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


def card(device: str) -> str:
    """The device and what drives it."""
    import torch

    if device != "cuda":
        return "CPU"
    major, minor = torch.cuda.get_device_capability()
    return f"{torch.cuda.get_device_name()} (compute capability {major}.{minor}, CUDA {torch.version.cuda})"


def findings(title: str, found: dict[str, dict[str, str]]) -> str:
    """A column each, a line a finding."""
    names = list(dict.fromkeys(name for column in found.values() for name in column))
    return markdown([title, *found], [[name, *(c.get(name, "-") for c in found.values())] for name in names])


def section(device: str, parts: list[str]) -> str:
    """The dated part of docs/gpu.md."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "trl", "accelerate"))
    head = f"## {datetime.now(UTC).date().isoformat()}, {card(device)}"
    return "\n\n".join([head, f"Python {platform.python_version()}, {packages}.", *parts])


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--steps", type=int, default=40, help="updates of scout and replay, a multiple of 20")
    parser.add_argument("--tiny", action="store_true", help="sizes that only show that the check works")
    return parser.parse_args()


def check(options: argparse.Namespace) -> list[str]:
    """What was found, part by part; what other processes measure comes while this one holds nothing of the GPU."""
    say("gpu-check: the plan")
    plan, small = plan_parts(options), {}
    with tempfile.TemporaryDirectory(prefix="npo-gpu-") as folder:
        say("gpu-check: a vision-language model")
        seeing, vision_plan = vision_parts(options, Path(folder) / "vision")
        for name, variant in VARIANTS.items():
            say(f"gpu-check: the demo through the stages, {name}")
            config = configure(options, *variant)
            small[name] = through_stages(config, Path(folder) / name)
        say("gpu-check: the large model")
        large = large_model(config, options, Path(folder))
    return [
        findings(f"demo, {config.bootstrap.scout_steps} steps through the stages", small),
        markdown(["random Qwen3, bf16 mixed precision", "measured"], list(large.items())),
        plan,
        findings("random Qwen3-VL with images through the stages", seeing),
        f"{vision_plan}\n\n{AT_MOST}",
    ]


def main() -> int:
    options = parse_arguments()
    settle(configure(options, bf16=False))
    import torch

    if options.device == "cuda" and not torch.cuda.is_available():
        print("There is no CUDA device here, so nothing was checked: run `make gpu-check` on a machine with one.")
        return 0
    text = section(options.device, check(options))
    print(text)
    if options.device == "cuda" and not options.tiny:
        DOCS.write_text(f"{DOCS.read_text().rstrip()}\n\n{text}\n")
        say(f"Written to {DOCS}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
