"""`beemeshctl node`: one machine's place in the mesh."""

from __future__ import annotations

import click

from beemeshctl.options import via_option


@click.group()
def command() -> None:
    """Change one node's place in the mesh."""


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
