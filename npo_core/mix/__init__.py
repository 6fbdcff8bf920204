"""Every mixed-policy method as source x gate x place x correction; see docs/mix.md."""

from npo_core.mix.mixer import MIX_FILE, SUCCESSES_FILE, Mixer, ReplayedRow
from npo_core.mix.source import Batch, Group, Source, Stateless

__all__ = ["MIX_FILE", "SUCCESSES_FILE", "Batch", "Group", "Mixer", "ReplayedRow", "Source", "Stateless"]
