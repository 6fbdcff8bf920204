"""The cases of `benchmarks.steps`: what both trainers are built from, and what is timed."""

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import BenchRun, trainer_parts
from npo_core.config import RunConfig, Training

TRL, NPO = "TRL", "NPO"
LONG_PROMPTS = "prompts of 256, completions of 64, 20 M parameters"


@dataclass(frozen=True)
class Case:
    """Blocks of both trainers. `make` builds a trainer of a kind in a folder for its output."""

    name: str
    target: float  # seconds of NPOTrainer / those of TRL's
    make: Callable[[str, Path], Any]
    steps: int
    warm_up: int  # steps that do not count
    rounds: int
    whole: bool = False  # all steps together, not their median
    phase: str = "step"  # or generate
    injects: bool = False
    tokens: int = 0  # of prompts and completions an update, where all rows have as many


def demo_cases(config: RunConfig, folder: Path, steps: int | None, rounds: int | None, whole: bool) -> list[Case]:
    """The demo from its base model, guided as in a replay, and in its plateau."""
    from npo_core.problems.load import load_problems

    bench = BenchRun(config, folder / "run")
    scout_steps, last = config.bootstrap.scout_steps, config.training.steps
    scout = bench.train("scout", scout_steps)
    cache = bench.guide(scout, [scout_steps]).cache
    late = bench.train("late", last * 3 // 4)
    problems = load_problems(config.problems)
    guidance = bench.workspace.open_cache(cache, [p.id for p in problems.train], {})

    def maker(model: Path, given: Any) -> Callable[[str, Path], Any]:
        def make(kind: str, output: Path) -> Any:
            parts = trainer_parts(model, config.training, problems, seed=config.seed, output=output, device="cpu")
            return built(kind, parts, guidance=given, until=scout_steps)

        return make

    first, plateau = bench.folder(bench.base), bench.folder(late.snapshots[last * 3 // 4])
    few, several = steps or 25, rounds or 6
    cases = [
        Case("demo, guided replay", 0.45, maker(first, guidance), few, min(5, few // 2), several, injects=True),
        Case("demo, plateau", 0.35, maker(plateau, None), few, min(5, few // 2), several),
    ]
    if whole:
        make = maker(first, guidance)
        cases.append(Case("demo, all its updates", 0.45, make, last, 0, rounds or 2, whole=True, injects=True))
    return cases


def built(kind: str, parts: dict[str, Any], guidance: Any = None, until: int = 0, **own: Any) -> Any:
    """A trainer of a kind; NPOTrainer takes guidance for its first updates."""
    from transformers import PrinterCallback, TrainerCallback
    from trl import GRPOTrainer

    from npo_core.training.trainer import NPOTrainer

    trainer = GRPOTrainer(**parts) if kind == TRL else NPOTrainer(**parts, guidance=guidance, **own)
    trainer.remove_callback(PrinterCallback)
    if kind == NPO and guidance is not None:

        class Replay(TrainerCallback):
            def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                trainer.guidance = guidance if state.global_step < until else None

        trainer.add_callback(Replay)
    return trainer


def no_dead_group(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """A reward that differs between the completions of a group."""
    return [int(hashlib.sha256(repr(ids).encode()).hexdigest()[:6], 16) / 2**24 for ids in completion_ids]


def made_up(
    folder: Path, config: Any, tokenizer: Any, settings: Training, rows: list[dict], device: str = "cpu", **own: Any
) -> Callable[[str, Path], Any]:
    """Makes trainers of a random model on rows; `own`: what NPOTrainer takes for them, by name."""
    from npo_core.models.tiny import save_random

    sides = (256, 256)
    save_random(config, tokenizer, folder, sides=sides)

    def make(kind: str, output: Path) -> Any:
        from datasets import Dataset
        from transformers.trainer_utils import SaveStrategy

        from npo_core.models.load import load_model, load_processor
        from npo_core.training.build import grpo_config

        args = grpo_config(settings, seed=0, output=output, device=device)
        args.save_strategy = SaveStrategy.NO
        chosen = own.get(kind, {})
        parts = {
            "model": load_model(folder), "processing_class": load_processor(folder), "args": args,
            "reward_funcs": no_dead_group, "train_dataset": chosen.get("data") or Dataset.from_list(rows),
        }  # fmt: skip
        return built(kind, parts, **{name: value for name, value in chosen.items() if name != "data"})

    return make


def long_prompts(
    folder: Path,
    quick: bool,
    *,
    width: int = 384,
    layers: int = 8,
    prompts: int = 2,
    bf16: bool = False,
    device: str = "cpu",
) -> Case:
    """Prompts of 256 tokens, completions of 64, groups of 8, no dead group; a model of 20 M parameters by default."""
    from transformers import Qwen3Config

    from npo_core.models.tiny import make_tokenizer

    tokenizer, prompt, tokens = make_tokenizer(), 32 if quick else 256, 8 if quick else 64
    tokenizer.add_tokens([f"<{i}>" for i in range(8192 - len(tokenizer))])
    width = 64 if quick else width
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=8 * width // 3, num_hidden_layers=layers,
        num_attention_heads=width // 64, num_key_value_heads=width // 64, head_dim=64, tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, bos_token_id=None,
    )  # fmt: skip
    draw = random.Random(0)
    texts = ["".join(draw.choices("abcdefgh", k=prompt)) for _ in range(64)]
    rows = [{"prompt": text, "prompt_id": f"{i:016x}"} for i, text in enumerate(texts)]
    settings = Training(
        steps=4,
        prompts_per_step=prompts,
        group_size=8,
        micro_batch=8 * prompts,
        max_completion_tokens=tokens,
        bf16=bf16,
    )
    make = made_up(folder, config, tokenizer, settings, rows, device)
    name = f"prompts of 256, completions of 64, {layers} x {width}" if bf16 else LONG_PROMPTS
    return Case(name, 0.5, make, 3, 1, 2, tokens=settings.batch * (prompt + tokens))


def pictures(folder: Path, quick: bool) -> Case:
    """A small Qwen3-VL, pictures of 256 patches, groups of 8."""
    from datasets import Dataset, Image, Sequence
    from PIL import Image as Drawn

    from benchmarks.pictures import vision_config
    from npo_core.models.tiny import make_processor, make_tokenizer

    text = {"hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 4,
            "head_dim": 64, "intermediate_size": 768}  # fmt: skip
    vision = {"hidden_size": 192, "depth": 6, "num_heads": 4, "intermediate_size": 768, "out_hidden_size": 256,
              "deepstack_visual_indexes": [2, 4]}  # fmt: skip
    config, tokenizer = vision_config({}, {}) if quick else vision_config(text, vision), make_tokenizer()
    processor, drawn, rows, chats = make_processor(tokenizer, (256, 256)), [], [], []
    for number in range(16):
        drawn.append(Drawn.new("RGB", (256, 256), (29 * number % 256, 255 - 29 * number % 256, 99)))
        chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": f"{number}?"}]}]
        prompt = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        rows.append({"prompt": prompt, "prompt_id": f"{number:016x}"})
        chats.append([{"role": "user", "content": f"{number}?"}])
    of = {row["prompt_id"]: picture for row, picture in zip(rows, drawn, strict=True)}
    data = Dataset.from_dict({"prompt": chats, "images": [[picture] for picture in drawn]})
    data = data.cast_column("images", Sequence(Image()))
    settings = Training(steps=4, prompts_per_step=2, group_size=8, micro_batch=16, max_completion_tokens=16)
    own = {TRL: {"data": data}, NPO: {"images": lambda id_: [of[id_]]}}
    make = made_up(folder, config, tokenizer, settings, rows, **own)
    return Case("Qwen3-VL, pictures of 256 patches", 0.35, make, 3, 1, 2)


def one_long(folder: Path, quick: bool) -> Case:
    """48 prompts, of which one is answered at length and the others in 8 tokens on average; the rollout is timed."""
    from transformers import Qwen3Config

    from npo_core.models.tiny import make_tokenizer

    tokenizer, longest = make_tokenizer(), 32 if quick else 256
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=384, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=4, head_dim=32, tie_word_embeddings=False, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=None,
    )  # fmt: skip
    rows = [{"prompt": "L" if i == 0 else "s" * (1 + i % 8), "prompt_id": f"{i:016x}"} for i in range(48)]
    settings = Training(steps=4, prompts_per_step=48, group_size=2, micro_batch=96, max_completion_tokens=longest)
    make = made_up(folder, config, tokenizer, settings.model_copy(update={"learning_rate": 1e-12}), rows)
    write_lengths(folder, tokenizer)
    return Case("48 prompts, one long completion among short ones", 0.6, make, 3, 1, 3, phase="generate")


def write_lengths(folder: Path, tokenizer: Any) -> None:
    """Have a model go on with capital letters, for ever, after a capital letter; else end one time in eight."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    capital = torch.zeros(len(tokenizer), dtype=torch.bool)
    capital[tokenizer.convert_tokens_to_ids(list("ABCDEFGHIJKLMNOPQRSTUVWXYZ"))] = True
    strength = model.config.hidden_size**0.5  # of the one direction that a layer norm leaves of an embedding
    with torch.no_grad():
        embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
        embedding.zero_()
        embedding[~capital, 0], embedding[capital, 1] = 50.0, 50.0
        head.zero_()
        head[capital, 0], head[~capital, 1] = -20 / strength, -20 / strength
        head[tokenizer.eos_token_id, 0] = torch.log((~capital).sum() / 7.0) / strength
    model.save_pretrained(folder)
