"""`beemeshctl version`: this program's version, and the agents'."""

from __future__ import annotations

import json

import click

from beemesh import __version__
from beemeshctl.options import via_option


@click.command()
@click.option("--client", "client_only", is_flag=True, help="Only this program.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", help="How to print.")
@via_option
def command(client_only: bool, output: str, via: str) -> int:
    """Print the version of beemeshctl, and of every agent."""
    from beemesh.errors import BeemeshError

    agents: dict[str, str] = {}
    problem = ""
    if not client_only:
        try:
            from beemeshctl.client import Client

            for node in Client(via=via).get("/api/v1/nodes")["items"]:
                agents[node["metadata"]["name"]] = node["status"]["nodeInfo"]["kubeletVersion"] or "unknown"
        except BeemeshError as error:
            problem = error.message
    if output == "json":
        click.echo(json.dumps({"beemeshctl": __version__, "agents": agents}))
    else:
        click.echo(f"beemeshctl {__version__}")
        for name, version in sorted(agents.items()):
            click.echo(f"agent {name} {version}")
    if problem:
        click.echo(f"agents: {problem.splitlines()[0]}", err=True)
    return 0
