"""`beemeshctl explain`: why a task runs where it runs."""

from __future__ import annotations

import json
from typing import Any

import click

from beemesh.errors import NotFound
from beemeshctl.options import namespace_option, via_option


@click.command()
@click.argument("target", metavar="TASK | deployment/NAME | pod/NAME")
@namespace_option
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", help="How to print.")
@via_option
def command(target: str, namespace: str, output: str, via: str) -> int:
    """Show every bid for a task with its parts, who kept silent and why, and what became of it.

    \b
    Examples:
      beemeshctl explain deployment/hello
      beemeshctl get tasks && beemeshctl explain 01JC…
    """
    from beemeshctl.client import BEEMESH, Client

    client = Client(via=via)
    explanations = [
        client.get(f"{BEEMESH}/tasks/{task.lower()}/explanation") for task in _tasks(client, target, namespace)
    ]
    if output == "json":
        click.echo(json.dumps(explanations if len(explanations) != 1 else explanations[0], indent=2))
        return 0
    for explanation in explanations:
        _print(explanation)
    return 0


def _tasks(client: Any, target: str, namespace: str) -> list[str]:
    """The newest task of each replica of a workload, or the task itself."""
    kind, slash, name = target.partition("/")
    if not slash:
        return [target]
    from beemeshctl.client import BEEMESH

    newest: dict[int, str] = {}
    for item in client.get(f"{BEEMESH}/tasks")["items"]:
        parts = item["spec"]["workload"].split("/")
        if parts[1:] == [namespace, name] and parts[0].startswith(kind.lower().rstrip("s")[:6]):
            newest[_replica(item)] = item["spec"]["taskID"]
    if not newest:
        raise NotFound(f"{target}: no task of it is remembered", hint="`beemeshctl get tasks` lists those that are")
    return [newest[replica] for replica in sorted(newest)]


def _replica(item: dict[str, Any]) -> int:
    return int(item["spec"].get("replica", 0))


def _print(story: dict[str, Any]) -> None:
    click.echo(f"task {story['task_id']}: replica {story['replica']} of {story['workload_id']}")
    where = f" on {story['node']}" if story["node"] else ""
    click.echo(f"{story['state']}{where}, revision {story['revision']}, attempt {story['attempt']}")
    if story["reason"] and not story["node"]:
        click.echo(f"reason: {story['reason']}")
    click.echo(f"asked for by steward {story['steward']}\n")
    _print_bids(story["bids"])
    if story["silent"]:
        click.echo("\nkept silent:")
        for node, reasons in story["silent"].items():
            _wrapped(f"  {node:<12} ", "; ".join(reasons))
    for lease in story["leases"]:
        until = f"for {lease['until_ms'] - lease['from_ms']} ms" if lease["until_ms"] else "and holds it"
        kind = ", tentative" if lease["tentative"] else ""
        click.echo(
            f"\nlease: {lease['node']} got it after {lease['from_ms'] - story['issued_ms']} ms {until}"
            f" (fence {lease['fence']}{kind})"
        )
    if story["events"]:
        click.echo("\nwhat happened (ms since the task was published):")
        for event in story["events"]:
            text = ": ".join(part for part in (event["reason"], event["details"].get("message", "")) if part)
            after_ms = event["at_ms"] - story["issued_ms"]
            _wrapped(f"  {after_ms:>+8} {event['node']:<12} {event['status']:<14} ", text)
    click.echo()


def _print_bids(bids: list[dict[str, Any]]) -> None:
    from beemeshctl.render import print_table

    if not bids:
        click.echo("nobody bid.")
        return
    parts = sorted({name for bid in bids for name in bid["parts"]})
    rows = [
        [bid["node"], f"{bid['score']:.3f}", *(f"{bid['parts'].get(name, 0.0):.3f}" for name in parts)] for bid in bids
    ]
    click.echo("bids, best first:")
    print_table(["NODE", "SCORE", *(name.upper() for name in parts)], rows)


def _wrapped(head: str, text: str) -> None:
    """A line with a hanging indent, 80 columns wide where the terminal is."""
    import shutil
    import textwrap

    width = max(60, shutil.get_terminal_size().columns)
    click.echo(textwrap.fill(text, width, initial_indent=head, subsequent_indent=" " * len(head)) or head.rstrip())
