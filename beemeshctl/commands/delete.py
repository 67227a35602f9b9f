"""`beemeshctl delete`: withdraw what was applied."""

from __future__ import annotations

import sys
import time

import click

from beemesh.errors import InvalidInput, NotFound, Unreachable
from beemeshctl.options import TYPES, duration_s, namespace_option, timeout_option, type_and_names, via_option

DELETABLE = {
    "pods": "Pod",
    "deployments": "Deployment",
    "daemonsets": "DaemonSet",
    "jobs": "Job",
    "configmaps": "ConfigMap",
    "secrets": "Secret",
    "poddisruptionbudgets": "PodDisruptionBudget",
    "resourcequotas": "ResourceQuota",
    "priorityclasses": "PriorityClass",
}
POLL_S = 0.15


@click.command()
@click.argument("words", nargs=-1, metavar="TYPE NAME… | TYPE/NAME…")
@click.option("-f", "--filename", "files", multiple=True, metavar="FILE", help="Delete what these manifests name.")
@namespace_option
@click.option("--wait/--no-wait", default=True, help="Wait until its pods are gone.")
@timeout_option
@click.option("--ignore-not-found", is_flag=True, help="Not an error when it is not there.")
@via_option
def command(
    words: tuple[str, ...],
    files: tuple[str, ...],
    namespace: str,
    wait: bool,
    timeout: str,
    ignore_not_found: bool,
    via: str,
) -> int:
    """Withdraw workloads, ConfigMaps and Secrets, and stop their pods.

    \b
    Examples:
      beemeshctl delete deployment hello
      beemeshctl delete -f examples/hello.yaml
    """
    from beemeshctl import applying
    from beemeshctl.client import Client

    patience_s = duration_s(timeout)
    wanted = _from_files(files, namespace) if files else _from_words(words, namespace)
    client = Client(via=via)
    planner = applying.Planner(client, applying.Mesh.read(client))
    removed = []
    for kind, space, name in wanted:
        change = planner.removal(kind, space, name)
        if change is None:
            if not ignore_not_found:
                raise NotFound(f'{applying.GROUPS[kind]} "{name}" not found in namespace {space}')
            continue
        applying.submit(client, change)
        removed.append(change)
        click.echo(f'{applying.GROUPS[kind]} "{name}" deleted')
    if wait:
        _wait(client, {change.key.partition("/")[2] for change in removed}, patience_s)
    return 0


def _from_words(words: tuple[str, ...], namespace: str) -> list[tuple[str, str, str]]:
    wanted = []
    for plural, name in type_and_names(words):
        if plural not in DELETABLE:
            raise InvalidInput(f"{plural} cannot be deleted", hint=f"only {', '.join(DELETABLE)} can")
        if not name:
            raise InvalidInput(f"which {TYPES[plural][0]}?", hint=f"beemeshctl delete {plural} NAME")
        wanted.append((DELETABLE[plural], namespace, name))
    return wanted


def _from_files(files: tuple[str, ...], namespace: str) -> list[tuple[str, str, str]]:
    from beemeshctl.manifests import read_manifests

    manifests = read_manifests(files, default_namespace=namespace, allow_unsupported=True, stdin=sys.stdin.buffer)
    return [(item.kind, item.namespace, item.name) for item in reversed(manifests.objects)]


def _wait(client: object, workload_ids: set[str], patience_s: float) -> None:
    from beemeshctl.client import Client

    assert isinstance(client, Client)
    deadline = time.monotonic() + patience_s
    while workload_ids:
        pods = client.get("/api/v1/pods")["items"]
        left = [
            f"{pod['metadata']['name']} on {pod['spec'].get('nodeName', '?')}"
            for pod in pods
            if pod["metadata"]["annotations"].get("beemesh.io/workload-id") in workload_ids
        ]
        if not left:
            return
        if time.monotonic() > deadline:
            raise Unreachable(
                f"withdrawn, but these still run after {patience_s:g} s: {', '.join(left)}",
                hint="a node that is away stops them when it hears of it",
            )
        time.sleep(POLL_S)
