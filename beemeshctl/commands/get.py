"""`beemeshctl get`: lists."""

from __future__ import annotations

import json
from typing import Any

import click

from beemesh.errors import InvalidInput
from beemeshctl.options import (
    TYPES,
    all_namespaces_option,
    namespace_option,
    output_option,
    path_of,
    type_and_names,
    via_option,
)


@click.command(epilog=f"Types: {', '.join(TYPES)}.")
@click.argument("words", nargs=-1, metavar="TYPE [NAME…] | TYPE/NAME…")
@namespace_option
@all_namespaces_option
@click.option("-l", "--selector", default="", metavar="LABELS", help="Such as app=web,tier!=cache.")
@click.option("-w", "--watch", is_flag=True, help="Go on and print what changes.")
@output_option
@via_option
def command(
    words: tuple[str, ...],
    namespace: str,
    all_namespaces: bool,
    selector: str,
    watch: bool,
    output: str,
    via: str,
) -> int:
    """List nodes, pods, deployments and every other type. Any agent answers for all.

    \b
    Examples:
      beemeshctl get nodes
      beemeshctl get pods -o wide --via bee2
      beemeshctl get deployment/hello -o json
      beemeshctl get endpoints hello -o json -w
    """
    from beemeshctl.client import Client
    from beemeshctl.render import print_objects

    if words == ("all",):
        words = ("pods,deployments",)
    pairs = type_and_names(words)
    space = "" if all_namespaces else namespace
    client = Client(via=via)
    if watch and len(pairs) > 1:
        raise InvalidInput("-w watches one type, or one object", hint="run one `get -w` for each")
    if watch:
        return _watch(client, *pairs[0], space, selector, output)
    by_type: dict[str, list[Any]] = {}
    for plural, name in pairs:
        answer = client.get(path_of(plural, space, name), labelSelector=selector)
        by_type.setdefault(plural, []).extend([answer] if name else answer["items"])
    if output in ("json", "yaml") and len(by_type) > 1:
        print_objects([item for items in by_type.values() for item in items], "", output)
        return 0
    for plural, items in by_type.items():
        if not items and output in ("table", "wide"):
            where = f" in {space} namespace" if space and TYPES[plural][2] else ""
            click.echo(f"No resources found{where}.", err=True)
            continue
        print_objects(items, TYPES[plural][0], output, single=len(pairs) == 1 and bool(pairs[0][1]))
        if len(by_type) > 1:
            click.echo()
    return 0


def _watch(client: Any, plural: str, name: str, space: str, selector: str, output: str) -> int:
    """Lines as they come; ends with Ctrl-C."""
    from beemeshctl.render import print_objects

    path = path_of(plural, space, name)
    for line in client.lines(path, watch=True, labelSelector=selector):
        change = json.loads(line)
        if output == "json":
            click.echo(json.dumps(change))
        else:
            print_objects([change["object"]], TYPES[plural][0], output)
    return 0
