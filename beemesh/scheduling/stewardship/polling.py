"""When a steward looks at a workload again by itself: often while something happens, rarely while it only waits.

Whatever ends the waiting is told (a bid, an event, a member, a record), and has the steward look at once or as soon as
at what changes; what the clock brings is looked for when it is due. Asking again is for what was told and got lost.
"""

from __future__ import annotations

from collections.abc import Iterable

from beemesh.effects import Now
from beemesh.scheduling.stewardship.hosting import Hosted
from beemesh.scheduling.stewardship.ledger import Outstanding
from beemesh.workloads.reconciler import Action, Observed, Wait

POLL_BUSY_S = 0.5
POLL_SETTLED_S = 10.0
POLL_SILENT_S = 2.5
"""How often those that run a workload are asked again: while it changes, when it is as wanted or only waits, and when
it seems so while a node does not say what it runs. What begins to wait comes to that by and by: each pause is as long
as it has waited."""


def only_waits(observed: Observed, outstanding: Iterable[Outstanding]) -> bool:
    """Whether all that is there works, and nobody is at work on what is missing."""
    there = (each for each in observed.replicas if each.phase not in ("Succeeded", "Failed"))
    works = all(each.phase == "Running" and observed.is_available(each) for each in there)
    return works and all(each.holder is None for each in outstanding)


def next_look_s(
    hosted: Hosted, steps: Iterable[Action], outstanding: Iterable[Outstanding], now: Now, *, settled: bool, waits: bool
) -> float:
    """When to look again (on our boot clock); notes since when it waits."""
    calm_s = POLL_SILENT_S if hosted.silent else POLL_SETTLED_S
    if settled or not waits or hosted.unheard:
        hosted.waits_since_s = None
        return now.boot_s + (calm_s if settled and not hosted.unheard else POLL_BUSY_S)
    if hosted.waits_since_s is None:
        hosted.waits_since_s = now.boot_s
    ends = [each.ends_s for each in outstanding]
    ends += [each.until_s for each in steps if isinstance(each, Wait)]
    if hosted.workload is not None:
        ends.append(hosted.rollout.ends_s(hosted.workload))
    pause_s = min(calm_s, now.boot_s - hosted.waits_since_s)
    due_s = min((each for each in ends if each >= now.boot_s), default=float("inf"))
    return max(now.boot_s + POLL_BUSY_S, min(now.boot_s + pause_s, due_s))
