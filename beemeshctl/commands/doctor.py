"""`beemeshctl doctor`: what is wrong, and how to mend it."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import click

from beemesh.errors import BeemeshError, ExitCode
from beemeshctl.clock import wall_ms
from beemeshctl.options import via_option
from beemeshctl.render import counted

SKEW_MS_MAX = 5_000
"""Differences above this are told: the mesh bears 30 s, and clocks that drift get there."""

ASKED_AT_ONCE = 16


@click.command()
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", help="How to print.")
@via_option
def command(output: str, via: str) -> int:
    """Check every node: reachable, clock, ports, engine, certificates, disk. Every failed check says how to mend it.

    Ends with 1 when any check is an error.
    """
    from beemeshctl.client import Client

    client = Client(via=via)
    nodes = [node["metadata"]["name"] for node in client.get("/api/v1/nodes")["items"]]
    with ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
        reports = dict(zip(nodes, pool.map(lambda name: _examine(via, name), nodes), strict=True))
    errors = sum(check["severity"] == "error" for checks in reports.values() for check in checks)
    if output == "json":
        click.echo(
            json.dumps({"nodes": [{"name": name, "checks": checks} for name, checks in reports.items()]}, indent=2)
        )
    else:
        for name, checks in reports.items():
            _print(name, checks)
        warnings = sum(check["severity"] == "warning" for checks in reports.values() for check in checks)
        click.echo(", ".join((counted(len(nodes), "node"), counted(errors, "error"), counted(warnings, "warning"))))
    return int(ExitCode.FAILED if errors else ExitCode.DONE)


def _examine(via: str, name: str) -> list[dict[str, Any]]:
    """One node's checks, through the agent in use; one that does not answer is an error itself."""
    from beemeshctl.client import BEEMESH, Client

    try:
        before_ms = wall_ms()
        answer = Client(via=via).get(f"{BEEMESH}/nodes/{name}/checks")
        after_ms = wall_ms()
    except BeemeshError as error:
        hint = error.hint or "is the machine up, and its agent? UDP and TCP of its gossip port must be open"
        return [{"check": "reachable", "severity": "error", "message": error.message, "hint": hint}]
    skew_ms = answer["wall_ms"] - (before_ms + after_ms) // 2
    found: list[dict[str, Any]] = [{"check": "reachable", "severity": "ok", "message": "answers", "hint": ""}]
    if abs(skew_ms) > SKEW_MS_MAX:
        text = f"its clock differs from this machine's by {skew_ms / 1000:+.0f} s"
        hint = "set both clocks with NTP; from 30 s on its messages are refused"
        found.append({"check": "clock", "severity": "warning", "message": text, "hint": hint})
    return found + list(answer["checks"])


def _print(name: str, checks: list[dict[str, Any]]) -> None:
    marks = {"ok": "ok", "warning": "warning", "error": "ERROR"}
    click.echo(name)
    for check in checks:
        click.echo(f"  {marks[check['severity']]:<8} {check['check']:<12} {check['message']}")
        if check["severity"] != "ok" and check["hint"]:
            click.echo(f"           {'':<12} → {check['hint']}")
