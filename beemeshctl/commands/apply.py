"""`beemeshctl apply FILE…|DIR|-`: check, seal and submit manifests."""

from __future__ import annotations

import json
import sys

import click

from beemeshctl.options import duration_s, timeout_option, via_option


@click.command()
@click.argument("files", nargs=-1, metavar="FILE…|DIR|-")
@click.option("-f", "--filename", "more", multiple=True, metavar="FILE", help="The same, as kubectl wants it.")
@click.option("-n", "--namespace", default="default", show_default=True, help="For objects that name none.")
@click.option("--wait", is_flag=True, help="Wait until every replica is ready.")
@timeout_option
@click.option("--dry-run", type=click.Choice(["none", "client", "server"]), default="none", help="Change nothing.")
@click.option("--allow-unsupported", is_flag=True, help="Ignore fields that are not supported yet, and list them.")
@click.option("-o", "--output", type=click.Choice(["text", "json", "name"]), default="text", help="How to print.")
@via_option
def command(
    files: tuple[str, ...],
    more: tuple[str, ...],
    namespace: str,
    wait: bool,
    timeout: str,
    dry_run: str,
    allow_unsupported: bool,
    output: str,
    via: str,
) -> int:
    """Make the mesh run what manifests say.

    Files are checked whole before anything is sent. Workloads, ConfigMaps and Secrets are sealed on this machine;
    applying the same again changes nothing.

    \b
    Examples:
      beemeshctl apply web.yaml --wait
      beemeshctl apply manifests/ -n shop
      cat web.yaml | beemeshctl apply -
    """
    from beemeshctl import applying
    from beemeshctl.client import Client
    from beemeshctl.manifests import read_manifests
    from beemeshctl.render import ProgressLine, warn
    from beemeshctl.steps import plan_changes
    from beemeshctl.waiting import wait_for

    sources = (*files, *more)
    if not sources:
        raise click.UsageError("which files?")
    patience_s = duration_s(timeout)
    manifests = read_manifests(
        sources, default_namespace=namespace, allow_unsupported=allow_unsupported, stdin=sys.stdin.buffer
    )
    for ignored in manifests.ignored:
        warn(f"ignored, not supported yet: {ignored}")
    client = Client(via=via)
    changes = plan_changes(client, manifests)
    suffix = {"none": "", "client": " (dry run)", "server": " (server dry run)"}[dry_run]
    handing = applying.Handing(client, warn, dry_run=dry_run == "server")
    for change in changes:
        if dry_run != "client":
            handing.submit(change)
        if output == "text":
            click.echo(f"{change}{suffix}")
        elif output == "name":
            click.echo(str(change).rpartition(" ")[0])
    if output == "json":
        listed = [
            {
                "kind": each.kind,
                "namespace": each.namespace,
                "name": each.name,
                "result": each.verb,
                "revision": each.revision,
            }
            for each in changes
        ]
        click.echo(json.dumps({"kind": "List", "items": listed}, indent=2))
    if wait and dry_run == "none":
        progress = ProgressLine()
        try:
            wait_for(client, changes, patience_s, progress.tell)
        finally:
            progress.done()
    return 0
