"""`beemeshctl describe`: one object in detail, with its recent events."""

from __future__ import annotations

import base64
import time
from typing import Any

import click

from beemeshctl.options import TYPES, namespace_option, path_of, type_and_names, via_option

EVENTS_SHOWN = 12


@click.command()
@click.argument("words", nargs=-1, metavar="TYPE NAME | TYPE/NAME")
@namespace_option
@via_option
def command(words: tuple[str, ...], namespace: str, via: str) -> int:
    """Show an object in detail: what is wanted, what runs where, who keeps its shares, what happened lately.

    \b
    Examples:
      beemeshctl describe deployment hello
      beemeshctl describe pod/hello-1-0
      beemeshctl describe node bee1
    """
    from beemeshctl.client import Client

    client = Client(via=via)
    for plural, name in type_and_names(words):
        path = path_of(plural, namespace, name)
        answer = client.get(path)
        for item in [answer] if name else answer["items"]:
            _describe(client, plural, item, namespace)
    return 0


def _describe(client: Any, plural: str, item: dict[str, Any], namespace: str) -> None:
    name = item["metadata"]["name"]
    _line("Name", name)
    _line("Kind", TYPES[plural][0])
    if TYPES[plural][2]:
        _line("Namespace", item["metadata"].get("namespace", ""))
    _mapping("Labels", item["metadata"].get("labels", {}))
    if item["metadata"].get("creationTimestamp"):
        _line("Created", item["metadata"]["creationTimestamp"])
    if plural in _DETAILS:
        _DETAILS[plural](client, item, namespace)
    if plural in ("deployments", "pods"):
        owner = item["metadata"]["labels"].get("beemesh.io/workload", name) if plural == "pods" else name
        _events(client, item["metadata"].get("namespace", namespace), owner)
    click.echo()


def _node(_client: Any, item: dict[str, Any], _namespace: str) -> None:
    status = item["status"]
    for condition in status["conditions"]:
        _line(condition["type"], f"{condition['status']}  {condition.get('message', '')}")
    addresses = [each["address"] for each in status["addresses"] if each["type"] == "InternalIP"]
    _line("Addresses", ", ".join(addresses))
    _mapping("Capacity", status["capacity"])
    _mapping("Free", status["free"])
    _line("Pods", str(status["pods"]))
    _line("Agent", status["nodeInfo"]["kubeletVersion"])
    _line("Engine", status["nodeInfo"]["containerRuntimeVersion"])
    for taint in item["spec"].get("taints", []):
        _line("Taint", f"{taint['key']}={taint['value']}:{taint['effect']}")


def _pod(_client: Any, item: dict[str, Any], _namespace: str) -> None:
    status = item["status"]
    _line("Node", item["spec"].get("nodeName", "(none)"))
    _line("Status", status["phase"])
    for field in ("reason", "message"):
        if status.get(field):
            _line(field.capitalize(), status[field])
    for container in status["containerStatuses"]:
        state = next(iter(container["state"]))
        _line(
            "Container",
            f"{container['name']}: {state}, image {container['image']}, {container['restartCount']} restarts",
        )
    _endpoints(status["endpoints"])


def _deployment(client: Any, item: dict[str, Any], namespace: str) -> None:
    status, spec = item["status"], item["spec"]
    _line(
        "Replicas",
        f"{spec['replicas']} wanted, {status['readyReplicas']} ready, {status['updatedReplicas']} up to date",
    )
    rolling = spec["strategy"].get("rollingUpdate")
    bounds = f", max surge {rolling['maxSurge']}, max unavailable {rolling['maxUnavailable']}" if rolling else ""
    paused = ", PAUSED" if spec.get("paused") else ""
    _line("Strategy", f"{spec['strategy']['type']}{bounds}, min ready {spec['minReadySeconds']} s{paused}")
    _conditions(item)
    _revisions(client, f"workload/deployment/{item['metadata']['namespace']}/{item['metadata']['name']}")
    _endpoints(status["endpoints"])
    _own_pods(client, item, namespace)


def _daemon_set(client: Any, item: dict[str, Any], namespace: str) -> None:
    status, rolling = item["status"], item["spec"]["updateStrategy"]["rollingUpdate"]
    counts = ("desiredNumberScheduled", "currentNumberScheduled", "updatedNumberScheduled", "numberAvailable")
    wanted, current, updated, available = (status[name] for name in counts)
    _line("Nodes", f"{wanted} wanted, {current} have one, {updated} up to date, {available} available")
    if status["numberMisscheduled"]:
        _line("Misscheduled", f"{status['numberMisscheduled']} on nodes that it is not for")
    bounds = f"max surge {rolling['maxSurge']}, max unavailable {rolling['maxUnavailable']}"
    _line("Strategy", f"RollingUpdate, {bounds}, min ready {item['spec']['minReadySeconds']} s")
    _conditions(item)
    _revisions(client, f"workload/daemonset/{item['metadata']['namespace']}/{item['metadata']['name']}")
    _endpoints(status["endpoints"])
    _own_pods(client, item, namespace)


def _conditions(item: dict[str, Any]) -> None:
    for condition in item["status"]["conditions"]:
        text = f"{condition['status']}  {condition.get('reason', '')}  {condition.get('message', '')}".rstrip()
        _line(condition["type"], text)


def _own_pods(client: Any, item: dict[str, Any], namespace: str) -> None:
    pods = client.get(path_of("pods", item["metadata"].get("namespace", namespace)))["items"]
    for pod in pods:
        if pod["metadata"]["labels"].get("beemesh.io/workload") == item["metadata"]["name"]:
            why = pod["status"].get("message", "")
            where = pod["spec"].get("nodeName", "(no node)")
            _line("Pod", f"{pod['metadata']['name']}  {pod['status']['phase']}  {where}  {why}".rstrip())


def _revisions(client: Any, key: str) -> None:
    """Who keeps the shares of each sealed revision."""
    import msgspec

    from beemesh.identity.signing import Signed, decode_body
    from beemesh.intents.record import Intent
    from beemesh.workloads.record import Workload
    from beemeshctl.client import BEEMESH

    items = client.get(f"{BEEMESH}/intents", key=key)["items"]
    if not items:
        return
    signed = msgspec.msgpack.decode(base64.b64decode(items[0]["record"]), type=Signed)
    workload = msgspec.msgpack.decode(decode_body(signed, Intent).body, type=Workload)
    nodes = client.get("/api/v1/nodes")["items"]
    names = {node["metadata"]["annotations"]["beemesh.io/node-id"]: node for node in nodes}
    from beemesh.ids import to_text

    for revision in workload.revisions:
        sealing = revision.sealing
        keepers = [names.get(to_text(ticket.custodian)) for ticket in sealing.tickets]
        alive = sum(node is not None and node["status"]["conditions"][0]["status"] == "True" for node in keepers)
        listed = ", ".join(node["metadata"]["name"] if node else "(gone)" for node in keepers)
        text = (
            f"{revision.number}: sealed {sealing.scheme}, {sealing.k} of {sealing.n} shares open it, kept by {listed}"
        )
        if alive < sealing.k:
            text += f"  ONLY {alive} OF THEM ARE ALIVE: nothing new of it can start"
        _line("Revision", text)


def _endpoints(endpoints: list[dict[str, Any]]) -> None:
    for each in endpoints:
        ready = "ready" if each["ready"] else "not ready"
        pod = f"  {each['pod']}" if each.get("pod") else ""
        _line("Endpoint", f"{each['address']}:{each['port']} → {each.get('targetPort', '?')}  {ready}{pod}")


def _events(client: Any, namespace: str, owner: str) -> None:
    found = client.get(path_of("events", namespace))["items"]
    own = [event for event in found if event["involvedObject"]["name"] == owner][-EVENTS_SHOWN:]
    if own:
        click.echo("Events:")
    for event in own:
        at = event.get("lastTimestamp", "")[11:19] or time.strftime("%H:%M:%S")
        click.echo(f"  {at}  {event['source']['host']:<12} {event['action']:<14} {event['message']}")


def _task(_client: Any, item: dict[str, Any], _namespace: str) -> None:
    _mapping("Spec", {key: str(value) for key, value in item["spec"].items()})
    _mapping("Status", {key: str(value) for key, value in item["status"].items()})


def _line(name: str, text: str) -> None:
    click.echo(f"{name + ':':<14} {text}")


def _mapping(name: str, values: dict[str, str]) -> None:
    _line(name, ", ".join(f"{key}={value}" if value else key for key, value in values.items()) or "(none)")


_DETAILS = {"nodes": _node, "pods": _pod, "deployments": _deployment, "daemonsets": _daemon_set, "tasks": _task}
