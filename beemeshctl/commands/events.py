"""`beemeshctl events`: what happened."""

from __future__ import annotations

import json

import click

from beemeshctl.options import all_namespaces_option, namespace_option, path_of, via_option


@click.command()
@namespace_option
@all_namespaces_option
@click.option("-w", "--watch", is_flag=True, help="Go on as things happen.")
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True, help="Newest events to list.")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", help="How to print.")
@via_option
def command(namespace: str, all_namespaces: bool, watch: bool, limit: int, output: str, via: str) -> int:
    """List what happened on the mesh, oldest first, or watch it happen.

    \b
    Examples:
      beemeshctl events
      beemeshctl events -w -A
    """
    from beemeshctl.client import Client
    from beemeshctl.render import print_objects

    path = path_of("events", "" if all_namespaces else namespace)
    client = Client(via=via)
    if not watch:
        print_objects(client.get(path, limit=limit)["items"], "Event", output)
        return 0
    for line in client.lines(path, watch=True):
        change = json.loads(line)
        if change["type"] != "ADDED":
            continue
        item = change["object"]
        if output == "json":
            click.echo(json.dumps(item))
        else:
            target = item["involvedObject"]
            about = f"{target['kind'].lower()}/{target['name']}" if target["name"] else "-"
            time = item.get("lastTimestamp", "")
            click.echo(f"{time}  {item['source']['host']:<12} {item['action']:<14} {about:<24} {item['message']}")
    return 0
