"""`beemeshctl node`: one machine's place in the mesh."""

from __future__ import annotations

import click

from beemeshctl.options import via_option


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
@click.argument("name")
@click.option("--reason", default="", help="Kept in the record, for people.")
@via_option
def remove(name: str, reason: str, via: str) -> None:
    """Take a node out of the mesh for good, and change the gossip key. Needs the mesh's CA key.

    What runs on it is placed elsewhere. Its agent goes on by itself until it is stopped on the machine; nobody listens
    to it. It comes back only with new keys: remove DATA/keys there and bootstrap it again.
    """
    from beemeshctl.membership_changes import revoke

    revoke("node", name, reason, via)
    click.echo(f"node {name} is removed, and the gossip key is being changed")
