"""`beemeshctl mesh`: a picture of the mesh, its gossip key, and who no longer belongs to it."""

from __future__ import annotations

import json

import click

from beemesh.errors import NotFound
from beemeshctl.options import via_option

text_or_json = click.option(
    "-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True, help="How to print."
)


@click.group()
def command() -> None:
    """Look at the mesh as its nodes see each other, change its gossip key, shut somebody out."""


@command.command()
@text_or_json
@via_option
def status(output: str, via: str) -> None:
    """Every node: state, by how many others it is seen, median round trip, its own health, its gossip key. Above the
    table: who suspects whom, and who does not see whom."""
    from beemeshctl.mesh_picture import gather, status_lines
    from beemeshctl.render import print_table

    picture = gather(via)
    if output == "json":
        click.echo(json.dumps(picture.document(), indent=2))
        return
    lines, heads, rows = status_lines(picture)
    for line in lines:
        click.echo(line)
    print_table(heads, rows)


@command.command()
@click.argument("nodes", nargs=-1, metavar="[NODE]...")
@text_or_json
@via_option
def rtt(nodes: tuple[str, ...], output: str, via: str) -> None:
    """Round-trip times between nodes in milliseconds, each as the node of its row measured it.

    Of all nodes, between those that are named, or of a single one with all others. More than 16 have a row each, with
    the nearest and the farthest.
    """
    from beemeshctl.mesh_picture import gather, rtt_pairs, rtt_table
    from beemeshctl.render import print_table

    picture = gather(via)
    unknown = sorted(set(nodes) - {str(member["node"]) for member in picture.members})
    if unknown:
        raise NotFound(f"the mesh {picture.mesh} has no node {unknown[0]!r}", hint="beemeshctl get nodes lists them")
    if output == "json":
        click.echo(json.dumps({"mesh": picture.mesh, "pairs": rtt_pairs(picture, nodes)}, indent=2))
        return
    print_table(*rtt_table(picture, nodes))


@command.command()
@text_or_json
@via_option
def topology(output: str, via: str) -> None:
    """Sites with their nodes, round trips within and between them, and the links that do not work."""
    from beemeshctl.mesh_picture import gather, topology_lines

    picture = gather(via)
    if output == "json":
        click.echo(json.dumps(picture.document(), indent=2))
        return
    for line in topology_lines(picture):
        click.echo(line)


@command.group()
def key() -> None:
    """The gossip key, under which all datagrams of the mesh travel."""


@key.command()
@click.option("--urgent", is_flag=True, help="Drop the old key after 10 s instead of a minute.")
@via_option
def rotate(urgent: bool, via: str) -> None:
    """Change the gossip key. Nodes install it, use it after some seconds, and forget the old one after a minute; those
    that are away get it when they come back. Needs an admin's grant."""
    from beemeshctl.client import Client
    from beemeshctl.membership_changes import rotate as change

    epoch = change(Client(via=via), urgent=urgent)
    click.echo(f"gossip key {epoch:x} is on its way; `beemeshctl mesh status` shows who uses it")


@command.command()
@click.argument("subject", type=click.Choice(["node", "operator"]))
@click.argument("name")
@click.option("--reason", default="", help="Kept in the record, for people.")
@via_option
def revoke(subject: str, name: str, reason: str, via: str) -> None:
    """Shut a node or an operator out for good, and change the gossip key. Needs the mesh's CA key.

    Within seconds no member talks to it, hands it a share or reads its messages. A node comes back only with new keys:
    remove DATA/keys on the machine and bootstrap it again.
    """
    from beemeshctl.membership_changes import revoke as shut_out

    shut_out(subject, name, reason, via)
    click.echo(f"{subject} {name} is revoked, and the gossip key is being changed")
