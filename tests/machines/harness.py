"""Bring test machines up, speak to them, pull their plugs and cables, and take away exactly what was made."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import tempfile
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.machines import image
from tests.machines.podman import HarnessError, podman, run

LABEL = "io.beemesh.test-machines"
"""On every container, volume and network that the harness makes; its value is the prefix of the names."""
OWNER_LABEL = "io.beemesh.test-machines.owner"
"""The process that answers for them, as `pid:start time`; `manual` where a person does."""

READY_DEADLINE_S = 60.0
"""Longest that a machine may take from power on to `systemctl is-system-running`; it takes 3 to 10 s on two cores."""
COMMAND_DEADLINE_S = 60.0
"""Longest that a command over SSH may take unless its caller says otherwise."""
COUNT_MAX = 50
"""Most machines at once: their last address byte is 10 + number, and each wants some 35 MB."""
MEMORY_MIB = 2048
"""Memory limit of one machine: enough for an agent, its memory-backed store and some pods."""

VOLUME_PATHS = {"containers": "/var/lib/containers", "beemesh": "/var/lib/beemesh"}
"""Folders that lie on volumes: a nested container store needs a real file system below its overlay."""


@dataclass(frozen=True, slots=True)
class Machine:
    """One test machine: its number counts from 1, `name` is the container's and the host's."""

    number: int
    name: str
    address: str
    mac: str

    def volume(self, kind: str) -> str:
        """The name of one of its volumes, `kind` being a key of `VOLUME_PATHS`."""
        return f"{self.name}-{kind}"


@dataclass(frozen=True, slots=True)
class Finished:
    """A command's end on a machine."""

    returncode: int
    stdout: str
    stderr: str


def run_arguments(
    machine: Machine, *, network: str, image_name: str, public_key: Path, labels: Sequence[str]
) -> list[str]:
    """The arguments after `podman` that start a machine. Every flag is there for a reason:

    podman's own systemd mode leaks units into the host's hierarchy on cgroup v1, so it is off and PID 1 does the
    remounts itself; nested podman needs capabilities, fuse and tun, but not `--privileged`, which would show it the
    host's disks; a fixed MAC address keeps neighbours' ARP caches right when a machine comes back.
    """
    flags = ["run", "--detach", "--name", machine.name, "--hostname", machine.name]
    flags += ["--network", network, "--ip", machine.address, "--mac-address", machine.mac]
    flags += ["--cap-add=all", "--cap-drop=CAP_SYS_RESOURCE"]
    flags += ["--security-opt=seccomp=unconfined", "--security-opt=unmask=ALL", "--security-opt=apparmor=unconfined"]
    flags += ["--device=/dev/fuse", "--device=/dev/net/tun", "--cgroupns=private", "--systemd=false"]
    flags += ["--pids-limit=4096", f"--memory={MEMORY_MIB}m", "--stop-timeout=10", "--env=container=podman"]
    flags += ["--tmpfs=/run:rw,mode=755", "--tmpfs=/run/lock:rw", "--tmpfs=/tmp:rw,mode=1777"]
    flags += [f"--volume={machine.volume(kind)}:{path}" for kind, path in VOLUME_PATHS.items()]
    flags += [f"--volume={public_key}:/etc/ssh/harness_keys:ro"]
    flags += [f"--label={label}" for label in labels]
    return [*flags, image_name]


def mac_address(prefix: str, number: int) -> str:
    """A locally administered address that is the machine's own and the same every time."""
    three = hashlib.sha256(prefix.encode()).digest()[:3]
    return ":".join(f"{byte:02x}" for byte in (0x02, 0x42, *three, number))


def _start_time(pid: int) -> str:
    """When a process started, in clock ticks since boot: with its pid, a name that is never used twice."""
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return ""


def owner_name() -> str:
    """This process, as written into `OWNER_LABEL`."""
    return f"{os.getpid()}:{_start_time(os.getpid())}"


def _owner_is_gone(owner: str) -> bool:
    pid, _, started = owner.partition(":")
    return pid.isdigit() and _start_time(int(pid)) != started


def _listed(kind: str, *filters: str) -> list[dict[str, Any]]:
    arguments = {"container": ["ps", "--all"], "network": ["network", "ls"], "volume": ["volume", "ls"]}[kind]
    chosen = [part for label in filters for part in ("--filter", f"label={label}")]
    return list(json.loads(podman(*arguments, *chosen, "--format", "json") or "[]") or [])


def remove_labelled(prefix: str) -> None:
    """Remove the containers, volumes and network of this prefix, and nothing else. Safe to repeat."""
    label = f"{LABEL}={prefix}"
    if containers := [entry["Id"] for entry in _listed("container", label)]:
        podman("rm", "--force", "--time", "0", *containers)
    if volumes := [entry["Name"] for entry in _listed("volume", label)]:
        podman("volume", "rm", "--force", *volumes)
    for network in _listed("network", label):
        podman("network", "rm", "--force", network["name"])


def remove_orphans() -> None:
    """Remove what test runs left behind that were killed: their labels name a process that is gone."""
    entries = [entry for kind in ("container", "network", "volume") for entry in _listed(kind, LABEL)]
    labels = [entry.get("Labels") or entry.get("labels") or {} for entry in entries]
    for prefix in {found[LABEL] for found in labels if _owner_is_gone(found.get(OWNER_LABEL, ""))}:
        remove_labelled(prefix)


class Machines:
    """Test machines that live as long as the `with` block; all are up, and answer over SSH, when it begins.

    Numbers count from 1. `prefix` names what is made and must be this run's own; `owner` is for the command line.
    """

    def __init__(self, count: int, *, prefix: str = "", owner: str = "") -> None:
        if not 1 <= count <= COUNT_MAX:
            raise HarnessError(f"{count} test machines: from 1 to {COUNT_MAX} are possible")
        self.count = count
        self.prefix = prefix or f"bm{uuid.uuid4().hex[:6]}"
        self.network = f"{self.prefix}-net"
        self.bridge = ""
        self.machines: list[Machine] = []
        self.key = Path()
        self.known_hosts = Path()
        self._owner = owner or owner_name()
        self._folder = Path(tempfile.gettempdir()) / f"beemesh-machines-{self.prefix}"
        self._cuts: set[tuple[int, int]] = set()

    def __enter__(self) -> Self:
        try:
            self.up()
        except BaseException:
            self.down()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    # --- life -----------------------------------------------------------------------------------------------------

    def labels(self) -> list[str]:
        """The labels of everything that is made here."""
        return [f"{LABEL}={self.prefix}", f"{OWNER_LABEL}={self._owner}"]

    def plan(self) -> dict[int, list[str]]:
        """Make the network, and say with which arguments podman starts each machine: number → arguments."""
        image_name = image.ensure()
        self.key = image.ssh_key()
        self._make_network()
        public = self.key.with_suffix(".pub")
        network, labels = self.network, self.labels()
        return {
            each.number: run_arguments(each, network=network, image_name=image_name, public_key=public, labels=labels)
            for each in self.machines
        }

    def up(self) -> None:
        """Make and start all machines and wait until they are ready. Raises `HarnessError` when one is not in time."""
        remove_orphans()
        plan = self.plan()
        for machine in self.machines:
            for kind in VOLUME_PATHS:
                labels = [part for label in self.labels() for part in ("--label", label)]
                podman("volume", "create", *labels, machine.volume(kind))
        self._each(range(1, self.count + 1), lambda number: podman(*plan[number]))
        self.wait_ready()

    def down(self) -> None:
        """Remove everything that was made. Safe to repeat, and after a failed start."""
        remove_labelled(self.prefix)
        for name in ("known_hosts",):
            (self._folder / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._folder.rmdir()

    def attach(self) -> Self:
        """Take up machines of this prefix that are already running (the command line's second call)."""
        self.key = image.ssh_key()
        self._read_network()
        self._write_known_hosts(range(1, self.count + 1))
        return self

    def wait_ready(self, numbers: Sequence[int] = ()) -> None:
        """Wait until these machines (all, unless named) have started their services and accept the key over SSH."""
        chosen = list(numbers) or [machine.number for machine in self.machines]
        self._each(chosen, self._wait_booted)
        self._write_known_hosts(chosen)
        self._each(chosen, self._wait_ssh)

    def power_off(self, *numbers: int) -> None:
        """Pull the plugs of these machines at once: every process is killed, disks stay."""
        names = [self[number].name for number in numbers]
        podman("kill", "--signal", "KILL", *names)
        podman("wait", *names)

    def power_on(self, *numbers: int, wait: bool = True) -> None:
        """Switch machines on again; cuts that still stand are made anew before anything is waited for."""
        podman("start", *[self[number].name for number in numbers])
        for one, other in self._cuts:
            for at, source in ((one, other), (other, one)):
                if at in numbers:
                    self._drop(at, source, "-I")
        if wait:
            self.wait_ready(numbers)

    # --- talk -----------------------------------------------------------------------------------------------------

    def __getitem__(self, number: int) -> Machine:
        return self.machines[number - 1]

    def ssh_arguments(self, number: int, *, user: str = "root") -> list[str]:
        """An OpenSSH command line up to the remote command; host keys are verified, nothing of the user's is read."""
        options = [f"UserKnownHostsFile={self.known_hosts}", "StrictHostKeyChecking=yes", "BatchMode=yes"]
        options += ["IdentitiesOnly=yes", "ConnectTimeout=5", "LogLevel=ERROR", "ServerAliveInterval=5"]
        chosen = [part for option in options for part in ("-o", option)]
        return ["ssh", "-F", "/dev/null", "-i", str(self.key), *chosen, f"{user}@{self[number].address}"]

    def run(
        self,
        number: int,
        command: str,
        *,
        check: bool = True,
        user: str = "root",
        deadline_s: float = COMMAND_DEADLINE_S,
        stdin: str | None = None,
    ) -> Finished:
        """Run a shell command on a machine over SSH. Raises `HarnessError` when it fails while `check` is set."""
        argv = [*self.ssh_arguments(number, user=user), command]
        done = run(argv, deadline_s=deadline_s, check=check, stdin=stdin)
        return Finished(done.returncode, done.stdout, done.stderr)

    def copy_to(self, number: int, source: Path, target: str) -> None:
        """Copy a file to a machine, over SSH."""
        command = [*self.ssh_arguments(number), f"cat > '{target}'"]
        with source.open("rb") as content:
            done = subprocess.run(command, stdin=content, capture_output=True, timeout=COMMAND_DEADLINE_S)
        if done.returncode != 0:
            raise HarnessError(f"copying {source} to {self[number].name}:{target}: {done.stderr.decode()}")

    def inventory(self, path: Path, *, mesh: str = "test", **variables: Any) -> Path:
        """Write an Ansible inventory of all machines, with these variables for all; returns its path."""
        hosts = {machine.name: {"ansible_host": machine.address} for machine in self.machines}
        connection = {"ansible_user": "root", "ansible_ssh_private_key_file": str(self.key)}
        content = {"all": {"vars": {**connection, "beemesh_mesh": mesh, **variables}, "hosts": hosts}}
        path.write_text(json.dumps(content, indent=2) + "\n")  # JSON is YAML
        return path

    # --- cables ---------------------------------------------------------------------------------------------------

    def cut(self, one: int, other: int) -> None:
        """Stop every packet between two machines, and between their pods, both ways; connections stay and starve."""
        pair = (min(one, other), max(one, other))
        if pair not in self._cuts:
            self._cuts.add(pair)
            self._drop(one, other, "-I")
            self._drop(other, one, "-I")

    def heal(self, one: int, other: int) -> None:
        """Undo `cut`; does nothing where nothing is cut."""
        pair = (min(one, other), max(one, other))
        if pair in self._cuts:
            self._cuts.discard(pair)
            self._drop(one, other, "-D")
            self._drop(other, one, "-D")

    def _drop(self, at: int, source: int, action: str) -> None:
        # Before routing, so that pods behind the machine's own NAT are cut off too; inside the machine, so that the
        # host's rules stay as they are. A machine that is off has lost the rule, and gets it again at power on.
        rule = [action, "PREROUTING", "-s", self[source].address, "-j", "DROP"]
        command = ["exec", self[at].name, "iptables", "-w", "5", "-t", "mangle", *rule]
        if podman("inspect", "--format", "{{.State.Running}}", self[at].name) == "true":
            podman(*command)

    # --- inside ---------------------------------------------------------------------------------------------------

    def _each(self, numbers: Sequence[int] | range, action: Any) -> None:
        with ThreadPoolExecutor(max_workers=8) as pool:
            list(pool.map(action, numbers))

    def _make_network(self) -> None:
        if not podman("network", "ls", "--quiet", "--filter", f"name=^{self.network}$"):
            labels = [part for label in self.labels() for part in ("--label", label)]
            podman("network", "create", "--disable-dns", *labels, self.network)
        self._read_network()

    def _read_network(self) -> None:
        [network] = json.loads(podman("network", "inspect", self.network))
        self.bridge = network["network_interface"]
        start = network["subnets"][0]["subnet"].rpartition(".")[0]
        self.machines = [
            Machine(number, f"{self.prefix}-{number}", f"{start}.{10 + number}", mac_address(self.prefix, number))
            for number in range(1, self.count + 1)
        ]

    def _wait_booted(self, number: int) -> None:
        name = self[number].name
        deadline = time.monotonic() + READY_DEADLINE_S
        state = ""
        while time.monotonic() < deadline:
            state = podman("exec", name, "systemctl", "is-system-running", "--wait", check=False)
            if state in ("running", "degraded"):
                break
            time.sleep(0.2)
        if state != "running":
            detail = podman("exec", name, "systemctl", "--failed", "--no-legend", "--plain", check=False)
            log = podman("logs", "--tail", "20", name, check=False)
            raise HarnessError(f"{name} is {state or 'not up'} after {READY_DEADLINE_S:.0f} s\n{detail}\n{log}")

    def _wait_ssh(self, number: int) -> None:
        deadline = time.monotonic() + READY_DEADLINE_S
        while (done := self.run(number, "true", check=False)).returncode != 0:
            if time.monotonic() > deadline:
                raise HarnessError(f"{self[number].name} takes no commands over ssh: {done.stderr}")
            time.sleep(0.2)

    def _write_known_hosts(self, numbers: Sequence[int] | range) -> None:
        """The real host keys, read from inside the machines: what an administrator would have noted down."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self.known_hosts = self._folder / "known_hosts"
        lines = self.known_hosts.read_text().splitlines() if self.known_hosts.exists() else []
        for number in numbers:
            address = self[number].address
            shown = podman("exec", self[number].name, "cat", "/etc/ssh/ssh_host_ed25519_key.pub", check=False)
            if shown.startswith("ssh-"):  # a machine that is off keeps the line that it had
                lines = [line for line in lines if not line.startswith(f"{address} ")]
                lines.append(" ".join([address, *shown.split()[:2]]))
        self.known_hosts.write_text("\n".join(lines) + "\n")
