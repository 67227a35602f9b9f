"""Jobs: pods that run to their end, so many of them, so many at a time, until too many have failed. Pure.

Each completion is an ordinal that has to succeed once. What succeeded is remembered by the node that ran it, which goes
on listing its pod, and by signed events on every node. Where all of that is lost an ordinal runs again: at least once,
as in Kubernetes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from beemesh.workloads.reconciler import Observed
from beemesh.workloads.record import JobTerms, Workload


@dataclass(frozen=True, slots=True)
class JobState:
    """How a job stands; `reason` is Kubernetes' word, `message` for people."""

    state: Literal["running", "complete", "failed"]
    reason: str = ""
    message: str = ""


RUNNING = JobState("running")


def state_of(workload: Workload, observed: Observed, wall_ms: int) -> JobState:
    """How the job stands by what runs, what is finished, what failed, and this node's wall clock."""
    terms = workload.job or JobTerms()
    number = workload.current.number
    succeeded = {(each.revision, each.replica) for each in observed.replicas if each.phase == "Succeeded"}
    done = {slot for slot in observed.finished | succeeded if slot[0] == number and slot[1] < workload.replicas}
    if len(done) >= workload.replicas:
        return JobState("complete", "Completed", f"{workload.replicas} of {workload.replicas} completions")
    failures = failures_of(workload, observed)
    if failures > terms.backoff_limit:
        message = f"its pods failed {failures} times, {terms.backoff_limit} are allowed"
        reasons = {reason for slot, each in observed.failures.items() if slot[0] == number for reason in each.reasons}
        text = "; ".join(sorted(reasons))
        return JobState("failed", "BackoffLimitExceeded", f"{message}: {text}" if text else message)
    if terms.active_deadline_s and wall_ms > workload.created_ms + terms.active_deadline_s * 1000:
        message = f"it was active for longer than {terms.active_deadline_s} s"
        return JobState("failed", "DeadlineExceeded", message)
    return RUNNING


def failures_of(workload: Workload, observed: Observed) -> int:
    """All failures that its pods are to blame for: those that ended, and containers that were started again."""
    number = workload.current.number
    ended = sum(each.blamed for slot, each in observed.failures.items() if slot[0] == number)
    active = [each for each in observed.replicas if each.revision == number and each.phase in ("Pending", "Running")]
    return ended + sum(container.restarts for each in active for container in each.containers)
