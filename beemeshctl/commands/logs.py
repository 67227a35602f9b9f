"""`beemeshctl logs`: what containers print."""

from __future__ import annotations

import threading
from typing import Any

import click

from beemesh.errors import BeemeshError, NotFound
from beemeshctl.options import duration_s, namespace_option, plural_of, via_option


@click.command()
@click.argument("target", metavar="POD | deployment/NAME")
@click.option("-f", "--follow", is_flag=True, help="Go on as more is printed.")
@click.option("--tail", type=click.IntRange(0), default=None, metavar="LINES", help="Only the last lines.")
@click.option("--since", default="", metavar="DURATION", help="Only what is younger, such as 10m.")
@click.option("-c", "--container", default="", help="Which container of the pod.")
@click.option("--timestamps", is_flag=True, help="With the time of each line.")
@namespace_option
@via_option
def command(
    target: str,
    follow: bool,
    tail: int | None,
    since: str,
    container: str,
    timestamps: bool,
    namespace: str,
    via: str,
) -> int:
    """Print the output of a pod, or of every pod of a deployment. Any agent answers, wherever the pod runs.

    \b
    Examples:
      beemeshctl logs hello-1-0 --tail 20
      beemeshctl logs -f deployment/hello
    """
    from beemeshctl.client import Client

    client = Client(via=via)
    pods = _pods(client, target, namespace)
    query: dict[str, Any] = {"follow": follow, "container": container, "timestamps": timestamps}
    if tail is not None:
        query["tailLines"] = tail
    if since:
        query["sinceSeconds"] = int(duration_s(since))
    if len(pods) == 1 or not follow:
        for pod in pods:
            _print(client, namespace, pod, query, prefix=len(pods) > 1)
        return 0
    threads = [
        threading.Thread(target=_follow, args=(via, namespace, pod, query), daemon=True, name=pod) for pod in pods
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):  # so that Ctrl-C is seen
        threads[0].join(0.2)
    return 0


def _pods(client: Any, target: str, namespace: str) -> list[str]:
    kind, slash, name = target.partition("/")
    if not slash or plural_of(kind) == "pods":
        return [name if slash else target]
    found = client.get(f"/api/v1/namespaces/{namespace}/pods")["items"]
    owned = [pod for pod in found if pod["metadata"]["labels"].get("beemesh.io/workload") == name]
    names = [pod["metadata"]["name"] for pod in owned if pod["spec"].get("nodeName")]
    if not names:
        raise NotFound(f"{target}: no pod of it runs in namespace {namespace}", hint=f"beemeshctl describe {target}")
    return names


def _print(client: Any, namespace: str, pod: str, query: dict[str, Any], *, prefix: bool) -> None:
    for line in client.lines(f"/api/v1/namespaces/{namespace}/pods/{pod}/log", **query):
        text = line.decode("utf-8", "replace")
        click.echo(f"[{pod}] {text}" if prefix else text, nl=not text.endswith("\n"))


def _follow(via: str, namespace: str, pod: str, query: dict[str, Any]) -> None:
    from beemeshctl.client import Client

    try:
        _print(Client(via=via), namespace, pod, query, prefix=True)
    except BeemeshError as error:
        click.echo(f"[{pod}] error: {error.message}", err=True)
