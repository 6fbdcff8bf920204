"""Training: `NPOTrainer` on TRL, injection, exact state, and the base model of the built-in task."""
