"""Generation of completions behind one small interface."""

from npo_core.engines.base import Engine, Generated

__all__ = ["Engine", "Generated"]
