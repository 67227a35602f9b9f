"""`beemeshctl node`: one machine's place in the mesh."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from beemesh.errors import ExitCode
from beemeshctl.options import duration_s, timeout_option, via_option

if TYPE_CHECKING:
    from beemesh.scheduling.stewardship.drain_plan import DrainPlan
    from beemeshctl.draining import Drainer

_GRACE = "Seconds between asking a pod to end and ending it; -1: each pod's own."


@click.group()
def command() -> None:
    """Change one node's place in the mesh."""


@command.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME…")
@click.option("--reason", default="", help="Kept in the record, for people.")
@via_option
def cordon(names: tuple[str, ...], reason: str, via: str) -> None:
    """Let nodes take no new work. What runs on them goes on."""
    from beemesh.intents.record import Cordon
    from beemeshctl.client import Client
    from beemeshctl.node_orders import NodeOrders

    orders = NodeOrders(Client(via=via))
    for card in orders.nodes(names):
        before = orders.of(card.name)
        if before.cordoned and (not reason or reason == before.reason):
            click.echo(f"node/{card.name} already cordoned")
            continue
        orders.put(Cordon(card.name, True, reason, before.drain))
        click.echo(f"node/{card.name} cordoned")


@command.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME…")
@via_option
def uncordon(names: tuple[str, ...], via: str) -> None:
    """Let nodes take work again; a drain ends with it, and what has not left stays."""
    from beemesh.intents.record import Cordon
    from beemeshctl.client import Client
    from beemeshctl.node_orders import NodeOrders

    orders = NodeOrders(Client(via=via))
    for card in orders.nodes(names):
        if not orders.of(card.name).cordoned:
            click.echo(f"node/{card.name} already uncordoned")
            continue
        orders.put(Cordon(card.name, False))
        click.echo(f"node/{card.name} uncordoned")


@command.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME…")
@click.option("--dry-run", is_flag=True, help="Only show what would move, where it may go, and what stands against it.")
@click.option("--grace-period", type=click.IntRange(-1, 600), default=-1, metavar="S", help=_GRACE)
@click.option("--force", is_flag=True, help="Also what is lost or missing for a while when it moves.")
@click.option("--ignore-daemonsets", is_flag=True, help="Leave the pods of DaemonSets where they are.")
@click.option("--reason", default="", help="Kept in the record, for people.")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", help="How to print.")
@timeout_option
@via_option
def drain(
    names: tuple[str, ...],
    dry_run: bool,
    grace_period: int,
    force: bool,
    ignore_daemonsets: bool,
    reason: str,
    output: str,
    timeout: str,
    via: str,
) -> int:
    """Cordon nodes and have everything on them run elsewhere first, as far as disruption budgets allow.

    The mesh carries it out: it goes on when this command is interrupted, and the same command shows how far it is.
    `node uncordon` takes it back.

    \b
    Examples:
      beemeshctl node drain bee1 --dry-run
      beemeshctl node drain bee1 --ignore-daemonsets --timeout 10m
    """
    from beemeshctl.client import Client
    from beemeshctl.drain_tables import print_json, print_plans
    from beemeshctl.draining import Drainer, DrainWish

    wish = DrainWish(names, grace_period, force, ignore_daemonsets, reason, duration_s(timeout))
    drainer = Drainer(Client(via=via), wish)
    plans = drainer.plans()
    if dry_run:
        print_json(plans, dry_run=True) if output == "json" else print_plans(plans)
        return ExitCode.FAILED if any(plan.refused for plan in plans) else ExitCode.DONE
    quiet = output == "json"
    _carry_out(drainer, plans, quiet=quiet)
    if quiet:
        print_json(drainer.plans(), dry_run=False)
    return ExitCode.DONE


def _carry_out(drainer: Drainer, plans: Sequence[DrainPlan], *, quiet: bool) -> None:
    """Order it and wait; what is told goes nowhere where one document is printed."""
    from beemeshctl.render import ProgressLine

    line = ProgressLine()

    def tell(text: str) -> None:
        line.done()
        if not quiet:
            click.echo(text)

    try:
        drainer.order(plans, tell)
        drainer.wait(tell, line.tell)
    except KeyboardInterrupt:
        line.done()
        click.echo("what is cordoned is drained all the same; `beemeshctl node uncordon` takes it back", err=True)
        raise
    finally:
        line.done()


@command.command()
@click.argument("name")
@click.option("--reason", default="", help="Kept in the record, for people.")
@click.option("--force", is_flag=True, help="At once, without draining it first.")
@click.option("--ignore-daemonsets", is_flag=True, help="Do not wait for the pods of DaemonSets.")
@timeout_option
@via_option
def remove(name: str, reason: str, force: bool, ignore_daemonsets: bool, timeout: str, via: str) -> None:
    """Take a node out of the mesh for good, and change the gossip key. Needs the mesh's CA key.

    A node that is alive is drained first, unless --force is given. What runs on it is placed elsewhere. Its agent goes
    on by itself until it is stopped on the machine; nobody listens to it. It comes back only with new keys: remove
    DATA/keys there and bootstrap it again.
    """
    from beemeshctl.client import Client
    from beemeshctl.draining import Drainer, DrainWish
    from beemeshctl.membership_changes import check_removal, revoke

    if not force:
        client = Client(via=via)
        check_removal(client, name)
        wish = DrainWish((name,), ignore_daemons=ignore_daemonsets, reason=reason, timeout_s=duration_s(timeout))
        drainer = Drainer(client, wish)
        plans = drainer.plans()
        if plans[0].alive:
            _carry_out(drainer, plans, quiet=False)
        else:
            click.echo(f"node/{name} is not alive: it is removed without draining")
    revoke("node", name, reason, via)
    click.echo(f"node {name} is removed, and the gossip key is being changed")
