"""`beemeshctl explain`: why a task runs where it runs."""

from __future__ import annotations

import json
from typing import Any

import click

from beemesh.errors import InvalidInput, NotFound
from beemeshctl.options import TYPES, namespace_option, path_of, type_and_names, via_option

EXPLAINED = ("deployments", "daemonsets", "jobs", "pods")
"""The types whose objects come of tasks."""


@click.command()
@click.argument("target", metavar="TASK | TYPE/NAME")
@namespace_option
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", help="How to print.")
@via_option
def command(target: str, namespace: str, output: str, via: str) -> int:
    """Show every bid for a task with its parts, who kept silent and why, and what became of it. A deployment, daemonset
    or job stands for the newest task of each of its replicas, a pod for its own.

    \b
    Examples:
      beemeshctl explain deployment/hello
      beemeshctl explain pod/hello-1-0
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
    """The newest task of each replica of a workload that is wanted, or the task itself."""
    if "/" not in target:
        return [target]
    ((plural, name),) = type_and_names((target,))
    if plural not in EXPLAINED:
        raise InvalidInput(f"{plural} come of no task", hint=f"explain one of {', '.join(EXPLAINED)}, or a task")
    found = _object(client, path_of(plural, namespace, name))
    workload_id, wanted = f"{TYPES[plural][0].lower()}/{namespace}/{name}", None
    if found and plural == "deployments":
        wanted = range(int(found["spec"]["replicas"]))
    elif found and plural == "pods":
        told, ordinal = found["metadata"]["annotations"], int(found["metadata"]["labels"]["beemesh.io/replica"])
        if found["spec"].get("nodeName") and told.get("beemesh.io/task"):
            return [str(told["beemesh.io/task"])]
        workload_id, wanted = told["beemesh.io/workload-id"], range(ordinal, ordinal + 1)
    if wanted is not None and not wanted:
        raise NotFound(f"{target}: no replica of it is wanted", hint="`beemeshctl scale` it to have some")
    newest = _newest(client, workload_id, wanted)
    if not newest:
        raise NotFound(f"{target}: no task of it is remembered", hint="`beemeshctl get tasks` lists those that are")
    return newest


def _object(client: Any, path: str) -> dict[str, Any]:
    """What is explained, as it is now; empty where it is gone, and only its tasks are left."""
    try:
        found: dict[str, Any] = client.get(path)
    except NotFound:
        return {}
    return found


def _newest(client: Any, workload_id: str, wanted: range | None) -> list[str]:
    """The newest task of each replica of a workload, or of the wanted ones of them: others were scaled away."""
    from beemeshctl.client import BEEMESH

    newest: dict[int, str] = {}
    for item in client.get(f"{BEEMESH}/tasks")["items"]:
        if item["spec"]["workload"] == workload_id and (wanted is None or _replica(item) in wanted):
            newest[_replica(item)] = item["spec"]["taskID"]
    return [newest[replica] for replica in sorted(newest)]


def _replica(item: dict[str, Any]) -> int:
    return int(item["spec"].get("replica", 0))


def _print(story: dict[str, Any]) -> None:
    click.echo(f"task {story['task_id']}: replica {story['replica']} of {story['workload_id']}")
    where = f" on {story['node']}" if story["node"] else ""
    click.echo(f"{story['state']}{where}, revision {story['revision']}, attempt {story['attempt']}")
    if story["reason"]:
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
