"""`beemeshctl scale`: another number of replicas."""

from __future__ import annotations

import click

from beemeshctl.options import namespace_option, via_option


@click.command()
@click.argument("words", nargs=-1, required=True, metavar="TYPE NAME | TYPE/NAME…")
@click.option("--replicas", type=int, required=True, metavar="N", help="How many are wanted.")
@click.option("--current-replicas", type=int, default=-1, metavar="N", help="Only if so many are wanted now.")
@namespace_option
@via_option
def command(words: tuple[str, ...], replicas: int, current_replicas: int, namespace: str, via: str) -> int:
    """Want another number of replicas. Applying a manifest that names one sets it again.

    \b
    Examples:
      beemeshctl scale deployment/hello --replicas 5
      beemeshctl scale deployment hello --replicas 0 --current-replicas 3
    """
    from beemesh.errors import Conflict
    from beemesh.workloads.revising import scaled
    from beemeshctl.client import Client
    from beemeshctl.rollouts import Reviser, targets

    reviser = Reviser(Client(via=via))
    for target in targets(words, namespace):
        before = reviser.standing(target)
        if current_replicas not in (-1, before.replicas):
            message = f"{target.shown} wants {before.replicas} replicas, not {current_replicas}"
            raise Conflict(message, hint="nothing was changed")
        if before.replicas != replicas:
            reviser.revise(target, before, scaled(before, replicas))
        click.echo(f"{target.shown} scaled")
    return 0
