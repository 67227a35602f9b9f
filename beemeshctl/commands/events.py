"""`beemeshctl events`: what happened."""

from __future__ import annotations

import json
from typing import Any

import click

from beemesh.errors import InvalidInput
from beemeshctl.options import TYPES, all_namespaces_option, namespace_option, path_of, plural_of, via_option

KINDS = ("Normal", "Warning")
LISTED_MAX = 1_000


@click.command()
@namespace_option
@all_namespaces_option
@click.option("-w", "--watch", is_flag=True, help="Go on as things happen, also when the agent asked goes away.")
@click.option("--for", "about", default="", metavar="TYPE/NAME", help="Only what is about this deployment or pod.")
@click.option("--types", default="", metavar="LIST", help="Only these: Normal, Warning.")
@click.option("--limit", type=click.IntRange(1, LISTED_MAX), default=100, show_default=True, help="Newest to list.")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", help="How to print.")
@via_option
def command(
    namespace: str, all_namespaces: bool, watch: bool, about: str, types: str, limit: int, output: str, via: str
) -> int:
    """List what happened on the mesh, oldest first, or watch it happen.

    \b
    Examples:
      beemeshctl events --for deployment/hello
      beemeshctl events -w -A --types Warning
    """
    from beemeshctl.client import Client
    from beemeshctl.render import print_objects

    wanted = _Wanted(about, types)
    path = path_of("events", "" if all_namespaces else namespace)
    client = Client(via=via)
    found = [item for item in client.get(path)["items"] if wanted.fits(item)][-limit:]
    if not watch:
        print_objects(found, "Event", output)
        return 0
    for item in found:
        _print_line(item, output)
    known = {item["metadata"]["name"] for item in found}
    oldest = min(known) if len(found) == limit else ""
    for change in client.watch(path):
        item = change["object"]
        name = item["metadata"]["name"]  # a ULID: those before the oldest of the list were left out of it
        if change["type"] == "ADDED" and name not in known and name > oldest and wanted.fits(item):
            _print_line(item, output)
    return 0


class _Wanted:
    """Which events to show."""

    def __init__(self, about: str, types: str) -> None:
        self._types = [name.strip().capitalize() for name in types.split(",") if name.strip()]
        for name in self._types:
            if name not in KINDS:
                raise InvalidInput(f"--types: {name!r} is no type of event", hint=f"there are {' and '.join(KINDS)}")
        kind, slash, self._name = about.partition("/")
        if about and not (slash and self._name):
            raise InvalidInput(f"--for: {about!r} names nothing", hint="write deployment/NAME or pod/NAME")
        self._kind = TYPES[plural_of(kind)][0] if about else ""

    def fits(self, item: dict[str, Any]) -> bool:
        """Whether an event is among those that were asked for."""
        if self._types and item["type"] not in self._types:
            return False
        if not self._kind:
            return True
        target = item["involvedObject"]
        is_target = target["kind"].lower() == self._kind.lower() and target["name"] == self._name
        return is_target or (self._kind == "Pod" and item.get("details", {}).get("pod") == self._name)


def _print_line(item: dict[str, Any], output: str) -> None:
    if output == "json":
        click.echo(json.dumps(item))
        return
    target = item["involvedObject"]
    about = f"{target['kind'].lower()}/{target['name']}" if target["name"] else "-"
    time = item.get("lastTimestamp", "")
    click.echo(f"{time}  {item['source']['host']:<12} {item['action']:<14} {about:<24} {item['message']}")
