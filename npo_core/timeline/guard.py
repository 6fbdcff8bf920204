"""What a write into S3 needs: the lease of its workspace, seen to be ours, with time left for the request."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from npo_core.errors import WorkspaceBusyError
from npo_core.timeline.failures import Unsure

S3_LOCK = "lock.json"
GUARDS: dict[str, Guard] = {}  # bucket/prefix of a workspace -> what this process may write to it under
Read = Callable[[str], Awaitable[bytes | None]]  # the content of a key of the workspace, None if it is absent


@dataclass
class Guard:
    """The lease that this process, or the one that started it, holds on a workspace in S3.

    S3 cannot refuse a write because another object changed. So no request leaves, and none goes on, in the last
    `margin_s` of the lease as it was last seen: another may own the workspace after that.
    """

    prefix: str  # bucket/prefix
    token: str  # of the lease
    margin_s: float
    until: float = 0.0  # that the lease was seen to run to; seconds since the epoch
    lost_to: dict[str, Any] | None = None

    def left(self) -> float:
        """Seconds for which a request may go on without another look."""
        return self.until - self.margin_s - time.time()

    def check(self) -> None:
        """Raises WorkspaceBusyError if the lease was lost."""
        if self.lost_to is not None:
            raise WorkspaceBusyError(
                f"The lock of s3://{self.prefix} was lost to {words(self.lost_to)}, since this process could not renew "
                "it in time: let the other one end, then start the same command again."
            )

    async def allow(self, read: Read) -> None:
        """Return if a write may leave. Raises WorkspaceBusyError where the lease was lost, Unsure where to wait."""
        self.check()
        if self.left() > 0:
            return
        self.see(await read(S3_LOCK))
        if self.left() <= 0:
            raise Unsure("the lease on the workspace could not be renewed for a while")

    def see(self, lock: bytes | None) -> None:
        """Take in what the lock says now. Raises WorkspaceBusyError where it is another's."""
        holder = parsed(lock)
        if holder.get("token") == self.token:
            self.until = holder["expires"]
        else:
            self.lost_to = holder
        self.check()


def guard_of(bucket: str, key: str) -> Guard | None:
    """What a write to a key has to look at first; None for a workspace that nobody here holds, and for its lock."""
    path = f"{bucket}/{key}"
    for prefix, guard in list(GUARDS.items()):
        if path.startswith(f"{prefix}/") and path != f"{prefix}/{S3_LOCK}":
            return guard
    return None


def parsed(data: bytes | None) -> dict[str, Any]:
    """The record in a lock, {} if there is none or it is damaged."""
    try:
        holder = json.loads(data or b"{}")
        return {**holder, "expires": float(holder["expires"])}
    except (ValueError, TypeError, KeyError):
        return {}


def words(who: dict[str, Any]) -> str:
    """Who holds a lock."""
    if not who:
        return "another process"
    details = [
        f"{word} {who[key]}" for word, key in (("pid", "pid"), ("on host", "host"), ("since", "since")) if key in who
    ]
    return f"'{who.get('owner', 'another process')}'" + (f" ({', '.join(details)})" if details else "")
