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

from benchmarks.common import ROOT, Ground, base_folder, demo_config, markdown, say, settle
from benchmarks.flow_parts import PHASES
from benchmarks.plan import CASES, Case, as_text, compare, largest
from benchmarks.plan import TINY as TINY_CASE
from benchmarks.snapshots import TINY, random_model
from benchmarks.steps import NPO, TRL, Setting, run_block
from npo_core.config import RunConfig
from npo_core.problems import ProblemSet
from npo_core.stages.launch import run_stage
from npo_core.stages.prove import prove_replay
from npo_core.timeline.segments import read_steps

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


def through_stages(config: RunConfig, folder: Path) -> dict[str, str]:
    """Scout, guidance, guided replay and evaluation as processes; then the proof. Name -> finding."""
    ground = Ground(config, folder, stage=lambda spec: run_stage(spec).result)
    until = config.bootstrap.scout_steps
    scout = ground.train("scout", until)
    guidance = ground.guide(scout, [until])
    replay = ground.train("replay", until, cache=guidance["cache"])
    scores = ground.stage(ground.run.evaluate([ground.base, scout["end"], replay["end"]]))["scores"]
    rates = [f"{score['pass_rate']:.3f}" for score in scores]
    injected = sum(row["groups_injected"] or 0.0 for row in rows(ground, replay))
    found = {
        f"pass rate: base, scout at {until}, guided replay at {until}": ", ".join(rates),
        "guidance: trajectories, coverage Q": f"{guidance['rows']}, {guidance['coverage']:.3f}",
        "groups injected in the replay": f"{injected / (until * config.training.prompts_per_step):.1%}",
        "ms a step, median: scout, replay": ", ".join(f"{step_ms(ground, part):.1f}" for part in (scout, replay)),
    }
    proof = prove_replay(ground.workspace.uri, segment=scout["segment"])
    for row in proof["compared"]:
        what = row["what"].split(":")[0]
        found[f"replayed bit for bit: {what}"] = "yes" if row["equal"] else f"no: {row['detail']}"
    return found


def rows(ground: Ground, part: dict) -> list[dict]:
    return read_steps(ground.workspace.store, ground.workspace.timeline.segment(part["segment"])).to_pylist()


def step_ms(ground: Ground, part: dict) -> float:
    """Generation, verification, forward and backward of a step; the first ones warm up."""
    seconds = [sum(row[phase] or 0.0 for phase in PHASES) for row in rows(ground, part)]
    return 1000 * statistics.median(seconds[len(seconds) // 4 :])


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
    setting = Setting(
        model, training, problems, solutions(problems, model), folder, options.device, config.seed, steps, warm_up
    )
    found: dict[str, list[float]] = {TRL: [], NPO: []}
    peaks: dict[str, float] = {}
    for kind in (TRL, NPO, NPO, TRL):
        forget_peak(options.device)
        found[kind].append(1000 * run_block(kind, setting).median)
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


def section(device: str, steps: int, small: dict[str, dict[str, str]], large: dict[str, str], plan: str) -> str:
    """The dated part of docs/gpu.md."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "trl", "accelerate"))
    names = list(dict.fromkeys(name for found in small.values() for name in found))
    table = markdown(
        [f"demo, {steps} steps through the stages", *small],
        [[name, *(found.get(name, "-") for found in small.values())] for name in names],
    )
    return "\n\n".join([
        f"## {datetime.now(UTC).date().isoformat()}, {card(device)}",
        f"Python {platform.python_version()}, {packages}.",
        table,
        markdown(["random Qwen3, bf16 mixed precision", "measured"], list(large.items())),
        plan,
    ])  # fmt: skip


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--steps", type=int, default=40, help="updates of scout and replay, a multiple of 20")
    parser.add_argument("--tiny", action="store_true", help="sizes that only show that the check works")
    return parser.parse_args()


def main() -> int:
    options = parse_arguments()
    settle(configure(options, bf16=False))
    import torch

    if options.device == "cuda" and not torch.cuda.is_available():
        print("There is no CUDA device here, so nothing was checked: run `make gpu-check` on a machine with one.")
        return 0
    say("gpu-check: the plan")
    plan, small = plan_parts(options), {}  # first, while this process holds nothing of the GPU
    with tempfile.TemporaryDirectory(prefix="npo-gpu-") as folder:
        for name, variant in VARIANTS.items():
            say(f"gpu-check: the demo through the stages, {name}")
            config = configure(options, *variant)
            small[name] = through_stages(config, Path(folder) / name)
        say("gpu-check: the large model")
        large = large_model(config, options, Path(folder))
    text = section(options.device, config.bootstrap.scout_steps, small, large, plan)
    print(text)
    if options.device == "cuda" and not options.tiny:
        DOCS.write_text(f"{DOCS.read_text().rstrip()}\n\n{text}\n")
        say(f"Written to {DOCS}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
