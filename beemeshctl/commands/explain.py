"""`beemeshctl explain`: why a task runs where it runs."""

from __future__ import annotations

import json
import time
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


def _print(explanation: dict[str, Any]) -> None:
    from beemeshctl.render import print_table

    task = explanation["task"]
    where = f"replica {task.get('replica', 0)} of {task.get('workload_id', '?')}, revision {task.get('revision', '?')}"
    click.echo(f"task {task['task_id']}: {where}")
    click.echo(f"state: {task.get('state', '?')}" + (f" on {task['node']}" if task.get("node") else ""))
    bids = explanation["bids"]
    if bids:
        parts = sorted({name for bid in bids for name in bid["parts"]})
        rows = [
            [bid["node"], f"{bid['score']:.3f}", *(f"{bid['parts'].get(name, 0.0):.3f}" for name in parts)]
            for bid in bids
        ]
        click.echo("\nbids, best first:")
        print_table(["NODE", "SCORE", *(name.upper() for name in parts)], rows)
    else:
        click.echo("\nnobody bid.")
    if explanation["silent"]:
        click.echo("\nsilent:")
        for each in explanation["silent"]:
            click.echo(f"  {each['node']}: {'; '.join(each['reasons'])}")
    if explanation["events"]:
        click.echo("\nwhat happened:")
        start_ms = explanation["events"][0]["at_ms"]
        for event in explanation["events"]:
            clock = time.strftime("%H:%M:%S", time.localtime(event["at_ms"] / 1000))
            reason = event["reason"] or event["details"].get("message", "")
            click.echo(
                f"  {clock} +{event['at_ms'] - start_ms:>5} ms  {event['node']:<12} {event['status']:<14} {reason}"
            )
    click.echo()
