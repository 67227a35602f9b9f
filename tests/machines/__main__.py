"""Test machines by hand: `python -m tests.machines up 3`, `… ssh 1 CMD`, `… cut 1 2`, `… off 1`, `… down`."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

from tests.machines import image
from tests.machines.harness import VOLUME_PATHS, Machines, remove_labelled
from tests.machines.podman import HarnessError, cache_dir, environment, podman, why_unavailable


def _count(prefix: str) -> int:
    names = podman("ps", "--all", "--format", "{{.Names}}", "--filter", f"name=^{prefix}-[0-9]+$").split()
    return max((int(name.rpartition("-")[2]) for name in names), default=0)


def _attached(prefix: str) -> Machines:
    if not (count := _count(prefix)):
        raise HarnessError(f"no machines named {prefix}-N: bring them up first (up COUNT)")
    return Machines(count, prefix=prefix, owner="manual").attach()


def _up(prefix: str, count: int) -> None:
    started = time.monotonic()
    remove_labelled(prefix)
    machines = Machines(count, prefix=prefix, owner="manual")
    machines.up()
    for machine in machines.machines:
        print(f"{machine.name}  {machine.address}")
    print(f"ready in {time.monotonic() - started:.1f} s; key {machines.key}; known hosts {machines.known_hosts}")


def _plan(prefix: str, count: int, owner: str) -> None:
    """Everything that another tool needs to start the machines itself, as JSON; makes the network."""
    machines = Machines(count, prefix=prefix, owner=owner)
    plan = machines.plan()
    content = {
        "environment": {"CONTAINERS_CONF": environment()["CONTAINERS_CONF"]},
        "labels": machines.labels(),
        "key": str(machines.key),
        "machines": [
            {
                "name": machine.name,
                "address": machine.address,
                "volumes": [machine.volume(kind) for kind in VOLUME_PATHS],
                "arguments": plan[machine.number],
            }
            for machine in machines.machines
        ],
    }
    print(json.dumps(content, indent=2))


def _wait(prefix: str) -> None:
    machines = _attached(prefix)
    machines.wait_ready()
    print(json.dumps({"key": str(machines.key), "known_hosts": str(machines.known_hosts)}))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.machines", description=__doc__)
    parser.add_argument("--prefix", default="tm", help="what the machines' names begin with (default: tm)")
    parser.add_argument("--owner", default="manual", help="the process (pid:start time) whose end makes them orphans")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in {"up": "start COUNT machines", "plan": "print how to start COUNT machines, as JSON"}.items():
        commands.add_parser(name, help=text).add_argument("count", type=int)
    for name, text in {
        "image": "build the image",
        "wait": "wait until all are ready",
        "down": "remove them all",
    }.items():
        commands.add_parser(name, help=text)
    inventory = commands.add_parser("inventory", help="write an inventory of them")
    inventory.add_argument("path", type=Path)
    for name in ("off", "on"):
        commands.add_parser(name, help=f"power {name} one machine").add_argument("number", type=int)
    for name in ("cut", "heal"):
        command = commands.add_parser(name, help=f"{name} the line between two machines")
        command.add_argument("one", type=int)
        command.add_argument("other", type=int)
    ssh = commands.add_parser("ssh", help="run a command on one, or a shell")
    ssh.add_argument("number", type=int)
    ssh.add_argument("rest", nargs=argparse.REMAINDER)
    return parser


def _act(arguments: argparse.Namespace) -> None:
    command, prefix = arguments.command, arguments.prefix
    if command == "up":
        _up(prefix, arguments.count)
    elif command == "plan":
        _plan(prefix, arguments.count, arguments.owner)
    elif command == "image":
        print(image.ensure(), cache_dir())
    elif command == "wait":
        _wait(prefix)
    elif command == "down":
        machines = Machines(1, prefix=prefix)
        machines.down()
    elif command == "inventory":
        print(_attached(prefix).inventory(arguments.path))
    elif command == "off":
        _attached(prefix).power_off(arguments.number)
    elif command == "on":
        machines = _attached(prefix)
        machines.power_on(arguments.number)
    elif command in ("cut", "heal"):
        # Every call is a process of its own: the rules themselves are the memory.
        machines = _attached(prefix)
        if command == "heal":
            machines._cuts.add((min(arguments.one, arguments.other), max(arguments.one, arguments.other)))
        getattr(machines, command)(arguments.one, arguments.other)
    else:
        argv = [*_attached(prefix).ssh_arguments(arguments.number), *arguments.rest]
        os.execvp(argv[0], argv)


def main() -> int:
    """Run the command line; returns the exit code."""
    arguments = _parser().parse_args()
    if reason := why_unavailable():
        print(reason, file=sys.stderr)
        return 1
    try:
        _act(arguments)
    except HarnessError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
