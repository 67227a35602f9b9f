"""`beemeshctl bootstrap INVENTORY`: install agents over SSH, sign who they are, form the mesh."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from beemesh.errors import BeemeshError

if TYPE_CHECKING:
    from beemeshctl.bootstrap.report import Report

_COLOURS = {"changed": "yellow", "failed": "red", "unreachable": "red", "warning": "magenta", "ok": "green"}


@click.command()
@click.argument("inventory", type=click.Path(path_type=Path))
@click.option("-l", "--limit", default="", metavar="PATTERN", help="Only these hosts: a:b, !x, &y, globs, groups.")
@click.option("-C", "--check", is_flag=True, help="Change nothing; say what would change.")
@click.option("-f", "--forks", type=click.IntRange(1, 200), default=20, show_default=True, help="Hosts at a time.")
@click.option("--accept-new-host-keys", is_flag=True, help="Record unknown SSH host keys; changed ones are refused.")
@click.option("--no-passphrase", is_flag=True, help="Keep the new mesh's CA key without a passphrase.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(1, 600),
    default=15.0,
    show_default=True,
    metavar="SECONDS",
    help="Patience with a host that does not answer.",
)
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.option("-v", "--verbose", is_flag=True, help="Also show what was found as it should be.")
@click.option("--list-hosts", is_flag=True, help="List the chosen hosts and stop.")
def command(
    inventory: Path,
    limit: str,
    check: bool,
    forks: int,
    accept_new_host_keys: bool,
    no_passphrase: bool,
    timeout_s: float,
    output: str,
    verbose: bool,
    list_hosts: bool,
) -> int:
    """Install agents on the hosts of an Ansible YAML inventory and form the mesh.

    Every host is looked at before any is changed; a host with problems is left as it is, and the others go on. Run it
    again at any time: it changes only what is not as the inventory says. The first run makes the mesh's CA, whose key
    is encrypted with a passphrase ($BEEMESH_PASSPHRASE, or asked for).
    """
    from beemeshctl.bootstrap.report import Progress
    from beemeshctl.bootstrap.run import Bootstrap, Options
    from beemeshctl.context import find_home
    from beemeshctl.inventory import hosts
    from beemeshctl.inventory.desired import desired_nodes
    from beemeshctl.inventory.reader import read_inventory
    from beemeshctl.keyfile import Passphrase

    wanted = read_inventory(inventory)
    chosen = hosts.limit(limit, list(wanted.hosts), wanted.groups) if limit else list(wanted.hosts)
    nodes = desired_nodes(wanted, chosen)
    if list_hosts:
        click.echo("\n".join(chosen))
        return 0
    teller = None if output == "json" else _Teller(verbose)
    progress = Progress(teller.say if teller else None)
    options = Options(check, forks, accept_new_host_keys, timeout_s)
    passphrase = Passphrase(none=no_passphrase, ask=lambda text: str(click.prompt(text.rstrip(": "), hide_input=True)))
    home = find_home(inventory)
    run = Bootstrap(nodes, home, passphrase, options, progress)
    try:
        if check:
            report = asyncio.run(run.run())
        else:
            with home.locked():
                report = asyncio.run(run.run())
    except KeyboardInterrupt:
        raise BeemeshError("interrupted", hint="run it again: it goes on where it stopped") from None
    if output == "json":
        click.echo(json.dumps(report.to_json(), indent=2))
    else:
        _recap(report, home.path)
    return int(report.exit_code)


class _Teller:
    """Prints what happens, in colour on a terminal."""

    def __init__(self, verbose: bool) -> None:
        self._verbose = verbose

    def say(self, kind: str, text: str) -> None:
        """One line, unless it only says that all is well."""
        if kind == "phase":
            click.secho(f"\n{text[:1].upper()}{text[1:]}", bold=True)
        elif kind != "ok" or self._verbose:
            click.secho(text, fg=_COLOURS.get(kind))
        sys.stdout.flush()


def _recap(report: Report, home: Path) -> None:
    title = "Recap (nothing was changed: --check)" if report.check else "Recap"
    click.secho(f"\n{title}", bold=True)
    for host, line in zip(report.hosts, report.recap(), strict=True):
        click.secho(line, fg=_COLOURS[host.status])
    if report.created:
        click.echo(
            f"\nThe mesh {report.mesh} is new. Its CA and your operator key are in {home}: keep a copy in a safe place."
        )
