"""`beemesh-agent`: what bootstrap and service managers call on a machine.

People use `beemeshctl`; these commands print JSON where another program reads them.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from beemesh import __version__
from beemesh.errors import BeemeshError, ExitCode

DEFAULT_CONFIG_DIR = "/etc/beemesh"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; errors go to standard error without a traceback, and decide the exit code."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options) or 0)
    except BeemeshError as error:
        print(f"error: {error}", file=sys.stderr)
        return int(error.exit_code)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return int(ExitCode.FAILED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return int(ExitCode.FAILED)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="beemesh-agent",
        description="The Beemesh agent of this machine. People use `beemeshctl`; bootstrap and systemd use this.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    init = commands.add_parser("init", help="make this node's keys (once) and print the public ones as JSON")
    init.add_argument("--data-dir", type=Path, required=True, help="where the keys are kept, under keys/")
    init.set_defaults(run=_init)

    run = commands.add_parser("run", help="run the agent until it is told to stop")
    _add_config(run)
    run.set_defaults(run=_run)

    check = commands.add_parser("check-config", help="verify the configuration's signature, owner and content")
    _add_config(check)
    check.set_defaults(run=_check_config)

    service = commands.add_parser("service", help="keep the agent running where there is no systemd")
    service.add_argument("action", choices=["start", "stop", "restart", "status"])
    _add_config(service)
    service.set_defaults(run=_service)

    images = commands.add_parser("images", help="the agent's own image store")
    images.add_argument("action", choices=["load", "list"])
    images.add_argument("names", nargs="*", help="`load`: a docker or OCI archive; `list`: which of these are here")
    images.add_argument("--sha256", default="", help="refuse the archive unless its SHA-256 is this")
    _add_config(images)
    images.set_defaults(run=_images)

    teardown = commands.add_parser("teardown", help="remove every pod, network and mount of this agent")
    _add_config(teardown)
    teardown.set_defaults(run=_teardown)

    end_pods = commands.add_parser("end-pods")  # without help: the guard runs it, and nobody else needs to
    _add_config(end_pods)
    end_pods.set_defaults(run=_end_pods)
    return parser


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config-dir", type=Path, default=Path(DEFAULT_CONFIG_DIR), help="where node.yaml lies")


def _init(options: argparse.Namespace) -> int:
    from agent import files
    from beemesh.ids import to_text

    crypto = files.make_keys(options.data_dir)
    print(
        json.dumps(
            {"node_id": to_text(crypto.signer_id), "sign_key": crypto.sign_key.hex(), "open_key": crypto.open_key.hex()}
        )
    )
    return 0


def _run(options: argparse.Namespace) -> int:
    from agent.daemon import run_agent

    return run_agent(options.config_dir)


def _check_config(options: argparse.Namespace) -> int:
    from agent import files

    loaded = files.load(options.config_dir)
    print(json.dumps({"mesh": loaded.settings.mesh, "node": loaded.membership.name, "valid": True}))
    return 0


def _service(options: argparse.Namespace) -> int:
    from agent import files, supervise

    paths = supervise.ServicePaths(files.data_directory(options.config_dir))
    if options.action in ("stop", "restart"):
        stopped = supervise.stop(paths)
        if options.action == "stop":
            print("stopped" if stopped else "was not running")
    if options.action in ("start", "restart"):
        files.load(options.config_dir)  # a config that cannot run is refused here, where somebody reads it
        command = [sys.executable, *_own_flags(), "-m", "agent.main", "run", "--config-dir", str(options.config_dir)]
        started = supervise.start(paths, command)
        print("started" if started else "was running")
    if options.action == "status":
        pid = supervise.running_pid(paths)
        print(f"running, supervisor process {pid}" if pid else "not running")
        return int(ExitCode.DONE if pid else ExitCode.FAILED)
    return 0


def _own_flags() -> list[str]:
    """The supervisor hands its PYTHONPATH on; user site-packages stay out of an agent."""
    return ["-s"]


def _images(options: argparse.Namespace) -> int:
    import asyncio

    from agent import files
    from agent.runtime.factory import runtime_for

    store = runtime_for(files.read_settings(options.config_dir)).images
    if options.action == "list":
        print(json.dumps([name for name in options.names if store.find(name) is not None]))
        return 0
    if len(options.names) != 1:
        raise BeemeshError("images load: which archive?", hint="beemesh-agent images load ARCHIVE [--sha256 DIGEST]")
    name, changed = asyncio.run(store.load(Path(options.names[0]), digest=options.sha256))
    print(json.dumps({"name": name, "changed": changed}))
    return 0


def _teardown(options: argparse.Namespace) -> int:
    import asyncio

    from agent import files, guarding
    from agent.runtime.factory import runtime_for

    settings = files.read_settings(options.config_dir)
    guarding.forget(guarding.paths_of(settings))
    asyncio.run(runtime_for(settings).teardown())
    return 0


def _end_pods(options: argparse.Namespace) -> int:
    from agent.end_pods import end_overdue_pods

    return end_overdue_pods(options.config_dir)


if __name__ == "__main__":
    sys.exit(main())
