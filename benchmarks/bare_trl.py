"""A bare TRL run: plain GRPOTrainer on the built-in task, no checkpoints. The other side of `benchmarks.flow`.

python -m benchmarks.bare_trl CONFIG MODEL STEPS OUTPUT
"""

import sys
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.trainer_utils import SaveStrategy
from trl import GRPOTrainer

from npo_core.config import load_config
from npo_core.models.identity import eos_token_ids
from npo_core.problems.load import load_problems
from npo_core.training.build import Rewards, grpo_config, training_data


def main(config_file: str, model: str, steps: int, output: Path) -> None:
    config = load_config(config_file)
    problems = load_problems(config.problems)
    training = config.training.model_copy(update={"steps": steps})
    args = grpo_config(training, seed=config.seed, output=output, device="cpu")
    args.save_strategy = SaveStrategy.NO
    trainer = GRPOTrainer(
        AutoModelForCausalLM.from_pretrained(model),
        reward_funcs=Rewards(problems, eos_token_ids(Path(model))).functions,
        args=args,
        train_dataset=training_data(problems),
        processing_class=AutoTokenizer.from_pretrained(model, padding_side="left"),
    )
    trainer.train()
    if trainer.state.global_step != steps:
        sys.exit(f"{trainer.state.global_step} steps were made, {steps} were asked")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
