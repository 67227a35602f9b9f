"""`beemeshctl reconcile DIR`: the mesh as a directory says."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from beemesh.errors import BeemeshError, ExitCode, InvalidInput
from beemeshctl.options import duration_s, via_option

if TYPE_CHECKING:
    from beemeshctl.applying import Change, Handing, Mesh
    from beemeshctl.client import Client
    from beemeshctl.manifests import ManifestSet


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--once", is_flag=True, help="One round, then end (1 when something was wrong).")
@click.option("--interval", default="30s", show_default=True, metavar="DURATION", help="Pause between rounds.")
@click.option("--prune", is_flag=True, help="Remove what an earlier round of this directory applied and is gone now.")
@click.option("--dry-run", is_flag=True, help="Show the difference, change nothing.")
@click.option("--source", default="", metavar="NAME", help="Whose objects these are. Default: the directory's name.")
@click.option("-n", "--namespace", default="default", show_default=True, help="For objects that name none.")
@via_option
def command(
    directory: Path, once: bool, interval: str, prune: bool, dry_run: bool, source: str, namespace: str, via: str
) -> int:
    """Keep the mesh as a directory of manifests says: show the difference, apply it, prune what is gone.

    A broken file stops nothing but itself; while any file is broken nothing is pruned.

    \b
    Examples:
      beemeshctl reconcile ./deploy-repo --once
      beemeshctl reconcile ./deploy-repo --interval 1m --prune
    """
    if not directory.is_dir():
        raise InvalidInput(f"{directory} is no directory", hint="name the directory that holds the manifests")
    pause_s = duration_s(interval)
    owner = source or directory.resolve().name
    while True:
        fine = _round(directory, owner, namespace, via, prune=prune, dry_run=dry_run)
        if once or dry_run:
            return int(ExitCode.DONE if fine else ExitCode.FAILED)
        time.sleep(pause_s)


def _round(directory: Path, owner: str, namespace: str, via: str, *, prune: bool, dry_run: bool) -> bool:
    from beemeshctl.applying import Handing, Mesh
    from beemeshctl.client import Client
    from beemeshctl.manifests import read_manifests
    from beemeshctl.render import warn

    try:
        manifests = read_manifests((str(directory),), default_namespace=namespace, strict=False)
        client = Client(via=via)
        mesh = Mesh.read(client)
    except BeemeshError as error:
        click.echo(f"error: {error}", err=True)
        return False
    for problem in manifests.problems:
        click.echo(f"broken: {problem}", err=True)
    changes, unresolved = _plan(client, manifests, mesh, owner)
    fine = not manifests.problems and not unresolved
    if prune and fine and manifests.objects:
        changes += _surplus(client, mesh, changes, owner)
    elif prune and not manifests.objects:
        click.echo("nothing is pruned: the directory yields no objects", err=True)
    counts = {"created": 0, "configured": 0, "unchanged": 0, "deleted": 0}
    handing = Handing(client, warn)
    for change in changes:
        fine &= _carry_out(handing, change, counts, dry_run=dry_run)
    text = ", ".join(f"{count} {verb}" for verb, count in counts.items())
    broken = len(manifests.problems) + unresolved
    click.echo(f"{owner}: {text}, {broken} broken{' (dry run)' if dry_run else ''}")
    return fine


def _plan(client: Client, manifests: ManifestSet, mesh: Mesh, owner: str) -> tuple[list[Change], int]:
    from beemesh.workloads.objects import CONFIG_KINDS, in_order
    from beemesh.workloads.resolve import needed_objects, resolve
    from beemeshctl.applying import Planner, read_back

    resolution = resolve(manifests.objects, read_back(client, mesh, needed_objects(manifests.objects)))
    for key, finding in resolution.problems:
        click.echo(f"broken: {manifests.problem(key, finding)}", err=True)
    planner = Planner(client, mesh, managed_by=owner)
    configs = [planner.config(item) for item in manifests.objects if item.kind in CONFIG_KINDS]
    policies = [planner.policy(item) for item in in_order(manifests.objects)]
    return configs + policies + [planner.workload(workload) for workload in resolution.workloads], len(
        resolution.problems
    )


def _surplus(client: Client, mesh: Mesh, changes: list[Change], owner: str) -> list[Change]:
    """What this source owns on the mesh and no longer names."""
    import msgspec

    from beemesh.workloads.record import SealedObject, Workload
    from beemeshctl.applying import Planner
    from beemeshctl.policies import POLICIES

    named = {change.key for change in changes}
    planner = Planner(client, mesh, managed_by=owner)
    kinds = {each.intent: (name, each.body) for name, each in POLICIES.items()}
    bodies: dict[str, Any] = {
        "workload": Workload,
        "object": SealedObject,
        **{kind: body for kind, (_, body) in kinds.items()},
    }
    gone: list[Change] = []
    for key, intent in mesh.intents.items():
        if key in named or intent.kind not in bodies:
            continue
        body = msgspec.msgpack.decode(intent.body, type=bodies[intent.kind])
        if body.managed_by == owner:
            kind = kinds[intent.kind][0] if intent.kind in kinds else body.kind
            removal = planner.removal(kind, body.namespace, body.name)
            gone += [removal] if removal is not None else []
    return gone


def _carry_out(handing: Handing, change: Change, counts: dict[str, int], *, dry_run: bool) -> bool:
    if change.verb != "unchanged":
        marks = {"created": "+", "configured": "~", "deleted": "-"}
        fields = f" ({', '.join(change.fields)})" if change.fields else ""
        click.echo(f"{marks[change.verb]} {change}{fields}")
    try:
        if not dry_run:
            handing.submit(change)
    except BeemeshError as error:
        click.echo(f"error: {change}: {error}", err=True)
        return False
    counts[change.verb] += 1
    return True
