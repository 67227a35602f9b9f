"""`make demo` and `make demo-down`: a mesh of three agents on this machine, by the very commands that users type.

All state lies under `.demo/` in the checkout. Nothing is written to `/etc`; distribution packages that were missing are
installed when this runs as root (or through sudo) and stay, and `demo-down` lists them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / ".demo"
EXAMPLES = ROOT / "examples"
INVENTORY = EXAMPLES / "local" / "inventory.yaml"
MANIFEST = EXAMPLES / "hello.yaml"
BEEMESHCTL = ROOT / ".venv" / "bin" / "beemeshctl"
INSTALLED = HOME / "installed-packages.json"
STATE = Path("/run/beemesh-demo")
"""Where the inventory mounts the agents' memory-backed stores."""
PACKAGES = {
    "podman": "podman",
    "runc": "runc",
    "netavark": "/usr/lib/podman/netavark",
    "aardvark-dns": "/usr/lib/podman/aardvark-dns",
    "catatonit": "/usr/bin/catatonit",
    "iptables": "iptables",
    "nftables": "nft",
    "busybox-static": "busybox",
}
"""Debian package → what it brings: a command on the PATH, or a file."""

WAIT_S = 90
PAGE_WAIT_S = 15


def say(text: str) -> None:
    """One line of progress."""
    print(f"\033[1m» {text}\033[0m" if sys.stdout.isatty() else f"» {text}", flush=True)


def environment() -> dict[str, str]:
    """What every command of the demo runs with."""
    return {**os.environ, "BEEMESH_HOME": str(HOME)}


def beemeshctl(*arguments: str) -> None:
    """Run a command as a user would, and show it."""
    say("beemeshctl " + " ".join(arguments))
    result = subprocess.run([str(BEEMESHCTL), *arguments], env=environment(), cwd=ROOT, check=False)
    if result.returncode:
        sys.exit(f"demo: `beemeshctl {arguments[0]}` failed; `make demo-down` cleans up")


def beemeshctl_json(*arguments: str) -> Any:
    """What a command answers with `-o json`."""
    command = [str(BEEMESHCTL), *arguments, "-o", "json"]
    return json.loads(subprocess.run(command, env=environment(), cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)


def as_root(action: str) -> None:
    """Agents run containers as root: start again through sudo when this is somebody else."""
    if os.geteuid() == 0:
        return
    if shutil.which("sudo") is None:
        sys.exit("demo: needs root to run containers, and there is no sudo\n  run `make demo` as root")
    say("containers need root: going on through sudo")
    os.execvp("sudo", ["sudo", "-E", sys.executable, str(Path(__file__).resolve()), action])


def missing_packages() -> list[str]:
    """Distribution packages whose programs are not here."""
    return [
        package
        for package, program in PACKAGES.items()
        if not (Path(program).exists() if program.startswith("/") else shutil.which(program))
    ]


def install_packages() -> None:
    """Install what is missing, where the distribution has apt; remember it for `demo-down` to list."""
    missing = missing_packages()
    if not missing or shutil.which("apt-get") is None:
        return
    say(f"installing {', '.join(missing)} from the distribution's packages")
    quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.STDOUT, "check": False}
    apt = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "-y", "--no-install-recommends", *missing]
    if subprocess.run(install, env=apt, **quiet).returncode:  # the lists may be old, or not there yet
        subprocess.run(["apt-get", "update"], env=apt, **quiet)
        if subprocess.run(install, env=apt, **quiet).returncode:
            say("some packages could not be installed; going on with what is here")
    here = [package for package in missing if package not in missing_packages()]
    known = json.loads(INSTALLED.read_text()) if INSTALLED.exists() else []
    INSTALLED.write_text(json.dumps(sorted({*known, *here})))


def choose_runtime() -> None:
    """podman where it can be had, else the `process` runtime, said aloud."""
    if shutil.which("podman") is None and "BEEMESH_DEMO_RUNTIME" not in os.environ:
        say("NO PODMAN HERE: the demo runs on the `process` runtime, which confines much less than a container")
        os.environ["BEEMESH_DEMO_RUNTIME"] = "process"


def build_image() -> None:
    """The demo's image, made of nothing but a static busybox."""
    sys.path.insert(0, str(EXAMPLES / "local"))
    import hello_image

    archive = HOME / "hello.tar"
    digest = hello_image.build(archive)
    (HOME / "hello.tar.sha256").write_text(f"{digest.removeprefix('sha256:')}\n")


def fetch_pages() -> None:
    """One page from each replica, from the endpoints that the mesh lists."""
    pods = beemeshctl_json("get", "pods")["items"]
    for pod in pods:
        for endpoint in pod["status"].get("endpoints", []):
            url = f"http://{endpoint['address']}:{endpoint['port']}/"
            say(f"GET {url}   ({pod['metadata']['name']} on {pod['spec'].get('nodeName', '?')})")
            print("\n".join(f"    {line}" for line in fetch(url).splitlines()))


def fetch(url: str) -> str:
    """The page behind a URL; tried again for a bounded time, since a server needs a moment to listen."""
    deadline = time.monotonic() + PAGE_WAIT_S
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return str(answer.read(65536).decode())
        except OSError as error:
            if time.monotonic() > deadline:
                sys.exit(f"demo: {url} does not answer: {error}\n  `beemeshctl describe deployment hello` may say why")
            time.sleep(0.2)


def hand_over() -> None:
    """Whoever came through sudo gets the operator's files, so that they can use `beemeshctl` without it."""
    uid, gid = int(os.environ.get("SUDO_UID", "0")), int(os.environ.get("SUDO_GID", "0"))
    if not uid:
        return
    os.chown(HOME, uid, gid)
    for path in HOME.iterdir():
        if path.name not in ("nodes", "prefix", "locks"):
            for each in [path, *(path.rglob("*") if path.is_dir() else [])]:
                os.chown(each, uid, gid)


def up() -> None:
    """Bootstrap, apply, look."""
    started = time.monotonic()
    HOME.mkdir(mode=0o700, exist_ok=True)
    (HOME / "locks").mkdir(exist_ok=True)
    install_packages()
    choose_runtime()
    build_image()
    beemeshctl("bootstrap", str(INVENTORY.relative_to(ROOT)), "--no-passphrase")
    beemeshctl("apply", str(MANIFEST.relative_to(ROOT)), "--wait", "--timeout", f"{WAIT_S}s")
    hand_over()
    beemeshctl("get", "nodes")
    beemeshctl("get", "pods")
    fetch_pages()
    say(f"done in {time.monotonic() - started:.0f} s. Three agents run on this machine, and no server.")
    print(
        """
Try next:
    export BEEMESH_HOME=$PWD/.demo PATH=$PWD/.venv/bin:$PATH
    beemeshctl get pods --via bee2          # any agent answers for the whole mesh
    beemeshctl describe deployment hello
    beemeshctl logs -f deployment/hello
    beemeshctl events
    beemeshctl get tasks                    # then: beemeshctl explain TASK
    beemeshctl doctor
Change replicas in examples/hello.yaml and apply it again. End it all: make demo-down"""
    )


def down() -> None:
    """End the agents and everything that they run; leave no process, mount, network or file."""
    if HOME.exists():
        for node in sorted((HOME / "nodes").glob("*")):
            end_node(node)
        installed = json.loads(INSTALLED.read_text()) if INSTALLED.exists() else []
        shutil.rmtree(HOME)
        if STATE.is_dir():
            shutil.rmtree(STATE)
        say("the demo's agents, pods, mounts, networks and files are gone")
        if installed:
            say(f"these distribution packages were installed for it and stay: {', '.join(installed)}")
    else:
        say("there is no demo here")


def end_node(node: Path) -> None:
    """Stop one agent, remove what it runs, and check that its mounts are gone before any file is deleted."""
    config = node / "config"
    agent = HOME / "prefix" / "bin" / "beemesh-agent"
    if (config / "node.yaml").exists() and agent.exists():
        say(f"ending {node.name}")
        for step in (["service", "stop"], ["teardown"]):
            command = [str(agent), *step, "--config-dir", str(config)]
            subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    held = [mount for mount in mounts if mount.startswith(f"{node}/")]
    if held:
        sys.exit(f"demo: still mounted: {', '.join(held)}\n  something uses it; end that, then `make demo-down` again")


if __name__ == "__main__":
    action = sys.argv[1] if len(sys.argv) > 1 else ""
    if action not in ("up", "down"):
        sys.exit("usage: demo.py up|down")
    as_root(action)
    try:
        up() if action == "up" else down()
    except KeyboardInterrupt:
        sys.exit("demo: interrupted; `make demo` goes on where it stopped, `make demo-down` cleans up")
