"""What operators do to a workload that stands: new revision, undo, restart, pause, scale. Pure: from record to record.

An undo follows Kubernetes: the old revision becomes the newest and gets a new number, and leaves its old place in the
history. It is not sealed again, so it remembers the number that it was sealed under; and its pods, where some still
run, are what is wanted, so it remembers the numbers that those bear.
"""

from __future__ import annotations

import msgspec

from beemesh.errors import InvalidInput, NotFound
from beemesh.workloads.record import ALIASES_MAX, HISTORY_MAX, Revision, Workload
from beemesh.workloads.strategies import for_replicas

REPLICAS_MAX = 10_000
"""As many as a manifest may ask for."""


def with_revision(before: Workload | None, draft: Workload, sealed: Revision, now_ms: int, cause: str) -> Workload:
    """`draft` with a newly sealed revision on top of what `before` had; the older ones keep what they asked for."""
    newest = msgspec.structs.replace(sealed, cause=cause, since_ms=now_ms)
    return msgspec.structs.replace(draft, revisions=_kept((newest, *_older(before)), draft.history_limit))


def undone(workload: Workload, to: int, now_ms: int) -> Workload:
    """The record that goes back to revision `to`, or for 0 to the one before the current one.

    Raises `NotFound` when the history does not have it, `InvalidInput` when it is the current one.
    """
    history = workload.revisions[1:]
    if to and workload.current.covers(to):
        raise InvalidInput(f"revision {to} of {workload.workload_id} is the current one", hint="nothing to undo")
    target = history[0] if not to and history else workload.revision(to)
    if target is None:
        kept = ", ".join(str(revision.number) for revision in history) or "none"
        wanted = f"no revision {to}" if to else "no revision before the current one"
        raise NotFound(f"{workload.workload_id} has {wanted}", hint=f"older ones that are kept: {kept}")
    aliases = (*target.aliases, target.number)[-ALIASES_MAX:]
    newest = _renumbered(workload, target, aliases, now_ms, f"undo to {target.number}")
    older = tuple(revision for revision in _older(workload) if revision.number != target.number)
    restored = workload.with_terms(target.terms) if target.terms is not None else workload
    return msgspec.structs.replace(restored, revisions=_kept((newest, *older), workload.history_limit))


def restarted(workload: Workload, now_ms: int) -> Workload:
    """The record that has every pod replaced by a new one of the same template. As in Kubernetes it is a new revision;
    unlike there the one before it leaves the history, since there is no difference to go back to."""
    newest = _renumbered(workload, workload.current, (), now_ms, "restart")
    return msgspec.structs.replace(workload, revisions=(newest, *workload.revisions[1:]))


def with_paused(workload: Workload, *, paused: bool) -> Workload:
    """The record whose rollout stands still, or goes on; raises `InvalidInput` when it does already, or cannot."""
    if workload.kind != "Deployment":
        raise InvalidInput(f"the rollout of a {workload.kind} cannot be paused", hint="only that of a deployment can")
    if workload.strategy.paused == paused:
        raise InvalidInput(f"{workload.workload_id} is {'paused' if paused else 'not paused'} already")
    return msgspec.structs.replace(workload, strategy=msgspec.structs.replace(workload.strategy, paused=paused))


def scaled(workload: Workload, replicas: int) -> Workload:
    """The record with another number of replicas; raises `InvalidInput` for kinds that have none, or too many."""
    if workload.kind != "Deployment":
        raise InvalidInput(f"a {workload.kind} has no number of replicas to change", hint="only deployments are scaled")
    if not 0 <= replicas <= REPLICAS_MAX:
        raise InvalidInput(f"{replicas} replicas: expected 0 to {REPLICAS_MAX}")
    strategy = for_replicas(workload.strategy, replicas)
    return msgspec.structs.replace(workload, replicas=replicas, strategy=strategy)


def next_number(workload: Workload | None) -> int:
    """The number of the next revision."""
    return workload.current.number + 1 if workload is not None else 1


def _renumbered(workload: Workload, one: Revision, aliases: tuple[int, ...], now_ms: int, cause: str) -> Revision:
    return msgspec.structs.replace(
        one,
        number=next_number(workload),
        sealed_as=one.sealed_number,
        aliases=aliases,
        terms=None,
        cause=cause,
        since_ms=now_ms,
    )


def _older(before: Workload | None) -> tuple[Revision, ...]:
    """The revisions of a record as history, newest first: its current one takes its terms along."""
    if before is None:
        return ()
    return (msgspec.structs.replace(before.current, terms=before.terms), *before.revisions[1:])


def _kept(revisions: tuple[Revision, ...], limit: int) -> tuple[Revision, ...]:
    return revisions[: 1 + min(max(limit, 0), HISTORY_MAX)]
