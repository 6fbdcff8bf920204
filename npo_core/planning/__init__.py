"""What a run will need before it starts: memory, disk, tokens, time; and what to change where it does not fit."""

from npo_core.planning.machine import Machine, look
from npo_core.planning.plan import Plan, make_plan, plan_run
from npo_core.planning.size import ModelSize, model_size

__all__ = ["Machine", "ModelSize", "Plan", "look", "make_plan", "model_size", "plan_run"]
