"""Tells experiment trackers of a run, from what its workspace holds: see docs/tracking.md.

A process of its own follows the workspace (`follow`). What there is to tell is read from committed parts and records
(`story`); how far each tracker was told stands in `tracking.json` (`ledger`), so that nothing is told twice or lost.
"""

from npo_core.tracking.check import require_trackers
from npo_core.tracking.follow import followed
from npo_core.tracking.ledger import links

__all__ = ["followed", "links", "require_trackers"]
