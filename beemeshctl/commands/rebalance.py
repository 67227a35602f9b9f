"""`beemeshctl rebalance`: move replicas from the fullest nodes to the emptiest, on request."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from beemesh.errors import InvalidInput
from beemeshctl.options import duration_s, timeout_option, via_option

if TYPE_CHECKING:
    from beemesh.scheduling.stewardship.rebalance import Proposal, ProposedMove

HEADS = ["NAMESPACE", "POD", "FROM", "TO", "LOAD FROM", "LOAD TO"]


@click.command()
@click.option("--max-moves", type=click.IntRange(1, 256), default=10, show_default=True, help="Replicas moved at most.")
@click.option("--dry-run", is_flag=True, help="Only show the moves.")
@click.option("--yes", "-y", is_flag=True, help="Do it without asking.")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", help="How to print.")
@timeout_option
@via_option
def command(max_moves: int, dry_run: bool, yes: bool, output: str, timeout: str, via: str) -> int:
    """Propose moves from the fullest nodes to the emptiest, show them, and carry them out once they are confirmed.

    Each replica is ready on its new node before the old one stops. Replicas that may not be doubled, that fit no other
    node, or whose disruption budget does not allow it, stay where they are.
    """
    import msgspec

    from beemesh.scheduling.stewardship.rebalance import propose
    from beemeshctl.client import Client
    from beemeshctl.layout import read_layout
    from beemeshctl.rebalancing import order, wait
    from beemeshctl.render import ProgressLine, say_nothing

    patience_s = duration_s(timeout)
    client = Client(via=via)
    proposal = propose(read_layout(client), max_moves)
    if output == "table":
        _show(proposal)
    if dry_run or not proposal.moves:
        _json(msgspec.structs.replace(proposal, dry_run=dry_run), output)
        return 0
    _confirm(proposal.moves, yes=yes, output=output)
    order(client, proposal.moves)
    line = ProgressLine()
    try:
        done = wait(client, proposal.moves, patience_s, click.echo if output == "table" else say_nothing, line.tell)
    finally:
        line.done()
    _json(msgspec.structs.replace(proposal, done=tuple(done)), output)
    return 0


def _confirm(moves: Sequence[ProposedMove], *, yes: bool, output: str) -> None:
    if yes:
        return
    if output == "json":
        raise InvalidInput("with -o json nobody can be asked", hint="add --yes, or --dry-run to look at the moves")
    click.confirm(f"Move {len(moves)} of them?", abort=True, err=True)


def _show(proposal: Proposal) -> None:
    from beemeshctl.render import print_table

    if not proposal.moves:
        click.echo("No move would lower the imbalance.")
        return
    rows = [
        [
            each.namespace,
            each.pod,
            each.source,
            each.target,
            f"{each.source_load:.0%} -> {each.source_load_after:.0%}",
            f"{each.target_load:.0%} -> {each.target_load_after:.0%}",
        ]
        for each in proposal.moves
    ]
    print_table(HEADS, rows)


def _json(proposal: Proposal, output: str) -> None:
    import msgspec

    if output == "json":
        click.echo(json.dumps(msgspec.to_builtins(proposal), indent=2))
