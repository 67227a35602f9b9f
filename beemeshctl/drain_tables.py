"""How a planned drain is shown."""

from __future__ import annotations

import json
from collections.abc import Sequence

import click
import msgspec

from beemesh.scheduling.stewardship.drain_plan import DrainPlan, DrainReport
from beemeshctl.render import print_table

MOVE_HEADS = ["NODE", "NAMESPACE", "POD", "HOW", "MAY GO TO", "NOTE"]
BLOCKER_HEADS = ["NODE", "NAMESPACE", "POD", "NEEDS", "BLOCKED BY"]


def print_plans(plans: Sequence[DrainPlan]) -> None:
    """Moves first, then what stands against them."""
    moves = [
        [plan.node, each.namespace, each.pod, each.how, ", ".join(each.candidates) or "<none>", each.note]
        for plan in plans
        for each in plan.moves
    ]
    if moves:
        has_notes = any(row[-1] for row in moves)
        print_table(MOVE_HEADS if has_notes else MOVE_HEADS[:-1], moves if has_notes else [row[:-1] for row in moves])
    blockers = [
        [plan.node, each.namespace, each.pod, each.needs or "time", each.reason]
        for plan in plans
        for each in plan.blockers
    ]
    if blockers:
        if moves:
            click.echo()
        print_table(BLOCKER_HEADS, blockers)
    for plan in plans:
        if not plan.alive:
            click.echo(f"node/{plan.node} is not alive: what it ran is replaced without a drain")
        elif plan.drained:
            click.echo(f"node/{plan.node} runs nothing that has to leave")


def print_json(plans: Sequence[DrainPlan], *, dry_run: bool) -> None:
    """The document that `schemas/drain.schema.json` describes."""
    click.echo(json.dumps(msgspec.to_builtins(DrainReport(dry_run, tuple(plans))), indent=2))
