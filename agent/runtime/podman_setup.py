"""Podman's own corner of the host: a memory-backed store, its configuration and network, all in one directory.

Nothing outside of that directory and the image store is read from or written to: neither `/etc/containers` nor the
host's default store. Podman is pointed here by its environment.
"""

from __future__ import annotations

import fcntl
import hashlib
import ipaddress
import json
import os
import re
import shutil
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from agent.locks import HostLock
from agent.runtime.contract import FailureReason, RuntimeFailure, StorageState
from agent.runtime.mounts import ensure_tmpfs, unmount_all
from agent.runtime.odd import ODD_SHAPE
from agent.runtime.podspec import VolumePlaces
from agent.runtime.ports import DEFAULT_PORT_RANGE

MAX_RUNROOT_CHARS = 50  # podman refuses a longer one, in the call by which conmon reports a container's end
NETWORK_NAME = "beemesh"
SUBNET_POOL = "10.96.0.0/12"  # cut into /24: 4,096 agents per host; away from podman's 10.88.0.0/16
SUBNET_PREFIX = 24
LOCK_TIMEOUT_S = 15.0
KILLED_EXIT_CODE = 137  # of a container whose end nobody saw
OWNER_FILES = "networks"  # beside the host's lock: which agent took which subnet


@dataclass(frozen=True, slots=True)
class PodmanSettings:
    """All that the podman engine has to know. Several agents of one host need separate `storage_dir` and `data_dir`."""

    storage_dir: Path
    """Mount point of the memory-backed store (`paths.state`); at most 46 characters, a limit of podman's."""
    data_dir: Path
    """For volumes on disk (`paths.data`)."""
    image_store: Path
    """Images on disk; agents of one host may share it."""
    lock_dir: Path = Path("/run/lock/beemesh")
    """Shared by every agent of the host (`paths.locks`)."""
    state: StorageState = StorageState.MEMORY
    storage_bytes: int = 512 * 1024 * 1024
    port_range: tuple[int, int] = DEFAULT_PORT_RANGE
    max_concurrent: int = 10
    podman: str = "podman"
    call_timeout_s: float = 30.0
    start_timeout_s: float = 20.0
    """For a pod whose images are here; 0.3 s is usual, and a slow board with cold caches takes some five."""
    pull_timeout_s: float = 900.0
    log_max_bytes: int = 8 * 1024 * 1024
    containers_conf: str = ""
    """A `containers.conf` of the operator's that replaces ours (`runtime.containers_conf`); empty for ours."""

    @property
    def host_lock(self) -> HostLock:
        """Shared by calls that create containers, taken alone by those that load or remove images."""
        return HostLock(self.lock_dir / "host.lock")


class PodmanSetup:
    """The directories, files and network of one agent's podman."""

    def __init__(self, settings: PodmanSettings) -> None:
        self.settings = settings
        root = settings.storage_dir
        self.root = root
        self.graph = root / "graph"
        self.runroot = root / "run"
        self.tmp = root / "tmp"
        self.networks = root / "net"
        self.files = root / "files"
        self.memory_volumes = root / "volumes"
        self.disk_volumes = settings.data_dir / "volumes"
        self._conf = root / "conf"
        self.bridge = "bm" + hashlib.sha256(str(root).encode()).hexdigest()[:10]

    @property
    def environment(self) -> dict[str, str]:
        """What a call of podman needs around it."""
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
        return {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/root",
            **kept,
            "CONTAINERS_CONF": self.settings.containers_conf or str(self._conf / "containers.conf"),
            **dict([self.mark]),
        }

    @property
    def mark(self) -> tuple[str, str]:
        """The variable by which a call of podman for this store is told from all others on the host."""
        return "CONTAINERS_STORAGE_CONF", str(self._conf / "storage.conf")

    @property
    def stopped_marks(self) -> Path:
        """The folder with an empty file for each pod that was asked to stop."""
        return self.root / "stopped"

    def places(self, pod_id: str) -> VolumePlaces:
        """Where the pod's volumes are."""
        return VolumePlaces(
            files=self.files / pod_id, disk=self.disk_volumes / pod_id, memory=self.memory_volumes / pod_id
        )

    def userdata(self, container_id: str) -> Path:
        """Where conmon keeps the container's log, and the sessions of commands inside it."""
        return self.graph / "overlay-containers" / container_id / "userdata"

    async def make(self, infra_image: str) -> None:
        """Mount the store if need be, and write the configuration. Running pods do not notice."""
        if len(str(self.runroot)) > MAX_RUNROOT_CHARS:
            raise RuntimeFailure(
                FailureReason.INVALID_SPEC,
                f"{self.root}: the path of podman's store has {len(str(self.root))} characters; "
                f"podman takes at most {MAX_RUNROOT_CHARS - len('/run')}",
                hint="set paths.state in node.yaml to a shorter one, such as /run/beemesh/NODE",
            )
        if self.settings.state is StorageState.MEMORY:
            await ensure_tmpfs(self.root, self.settings.storage_bytes)
        else:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in (self.graph, self.runroot, self.tmp, self.networks, self.files, self.memory_volumes, self._conf):
            folder.mkdir(mode=0o700, exist_ok=True)
        self.disk_volumes.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_small(self._conf / "storage.conf", self._storage_conf())
        write_small(self._conf / "containers.conf", self._containers_conf(infra_image))
        network = self.networks / f"{NETWORK_NAME}.json"
        if not network.exists():
            async with self.settings.host_lock.exclusive(LOCK_TIMEOUT_S):
                subnet = self._claim_subnet()
            write_small(network, json.dumps(self._network(subnet), indent=1))

    async def destroy(self) -> None:
        """Unmount and delete all of it; the pods must be gone."""
        (self._owners / self.bridge).unlink(missing_ok=True)
        await unmount_all(self.root)
        for folder in (self.root, self.disk_volumes):
            shutil.rmtree(folder, ignore_errors=True)
        delete_bridge(self.bridge)  # podman removes it with the last pod, except now and then

    def is_mounted(self) -> bool:
        """Whether the store's directory is a mount of its own."""
        return os.path.ismount(self.root)

    def is_finishing(self) -> bool:
        """Whether a conmon is still busy with the end of its container.

        Podman 4.3 waits three seconds for the pod's cgroup when a pod is removed while its conmons are.
        """
        for place in (self.runroot / "overlay-containers").glob("*/userdata"):
            conmon, process = _pid_in(place / "conmon.pid"), _pid_in(place / "pidfile")
            if conmon and not process:
                return True
        return False

    def end_abandoned(self, container_id: str, pid: int) -> None:
        """Write down the end of a container whose process `pid` and conmon are gone, if conmon did not.

        A conmon that was killed leaves no exit code behind: podman would take its container for running for ever. Only
        for one that podman has listed as running since its last start.
        """
        place = self.runroot / "overlay-containers" / container_id / "userdata"
        with suppress(OSError):  # it was removed meanwhile, ended as it should, or there is no room: the next look
            is_this_run = (place / "pidfile").read_text().strip() == str(pid)
            watched = not (place / "conmon.pid").exists() or _pid_in(place / "conmon.pid")
            if is_this_run and not watched and not _pid_in(place / "pidfile"):
                draft = self.tmp / f".{container_id}.draft"
                draft.write_text(str(KILLED_EXIT_CODE))
                try:
                    (self.tmp / "exits" / container_id).hardlink_to(draft)  # never over conmon's own
                finally:
                    draft.unlink()

    def _storage_conf(self) -> str:
        return (
            "[storage]\n"
            'driver = "overlay"\n'
            f'graphroot = "{self.graph}"\n'
            f'runroot = "{self.runroot}"\n'
            "[storage.options]\n"
            f'additionalimagestores = ["{self.settings.image_store}"]\n'
        )

    def _containers_conf(self, infra_image: str) -> str:
        """Ulimits: both are set because podman's own defaults fail where root may not raise them."""
        return (
            "[containers]\n"
            'default_ulimits = ["nofile=16384:16384", "nproc=32768:32768", "core=0:0"]\n'
            'log_driver = "k8s-file"\n'
            f"log_size_max = {self.settings.log_max_bytes}\n"
            + engine_section(static_dir=self.graph / "libpod", tmp_dir=self.tmp)
            + f'volume_path = "{self.graph / "named"}"\n'
            f'infra_image = "{infra_image}"\n'
            "[network]\n"
            'network_backend = "netavark"\n'
            f'network_config_dir = "{self.networks}"\n'
        )

    @property
    def _owners(self) -> Path:
        return self.settings.lock_dir / OWNER_FILES

    def _claim_subnet(self) -> str:
        """A subnet that no agent and no route of this host has; called under the host's exclusive lock."""
        self._owners.mkdir(mode=0o700, exist_ok=True)
        taken: list[ipaddress.IPv4Network] = list(routes())
        for entry in self._owners.iterdir():
            if entry.name == self.bridge:
                continue
            storage_dir, owned = _owner(entry)
            if not storage_dir.exists():
                entry.unlink(missing_ok=True)
                continue
            taken.append(owned)
        subnet = free_subnet(taken, int(self.bridge[2:], 16))
        write_small(self._owners / self.bridge, json.dumps({"storage_dir": str(self.root), "subnet": subnet}))
        return subnet

    def _network(self, subnet: str) -> dict[str, object]:
        gateway = str(next(ipaddress.IPv4Network(subnet).hosts()))
        return {
            "name": NETWORK_NAME,
            "id": hashlib.sha256(self.bridge.encode()).hexdigest(),
            "driver": "bridge",
            "network_interface": self.bridge,
            "created": "2026-01-01T00:00:00Z",
            "subnets": [{"subnet": subnet, "gateway": gateway}],
            "ipv6_enabled": False,
            "internal": False,
            "dns_enabled": False,
            "ipam_options": {"driver": "host-local"},
        }


SIOCSIFFLAGS, SIOCBRDELBR = 0x8914, 0x89A1


def delete_bridge(name: str) -> None:
    """Take a bridge of ours down and away (netdevice(7), linux/sockios.h); one that is gone already is fine."""
    request = struct.pack("16sH14x", name.encode(), 0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control, suppress(OSError):
        fcntl.ioctl(control, SIOCSIFFLAGS, request)
        fcntl.ioctl(control, SIOCBRDELBR, request)


def engine_section(*, static_dir: Path, tmp_dir: Path) -> str:
    """The `[engine]` table that fits this host, still open for more keys.

    Locks are files in the engine's own directory: the shared-memory ones are one table for the whole host, and outlive
    a store that is unmounted.
    """
    return (
        "[engine]\n"
        f'runtime = "{oci_runtime()}"\n'
        f'cgroup_manager = "{cgroup_manager()}"\n'
        'events_logger = "none"\n'
        'lock_type = "file"\n'
        f'static_dir = "{static_dir}"\n'
        f'tmp_dir = "{tmp_dir}"\n'
    )


def has_cgroups_v2() -> bool:
    """Whether this host uses the unified cgroup hierarchy alone."""
    return Path("/sys/fs/cgroup/cgroup.controllers").exists()


def has_systemd() -> bool:
    """Whether systemd is this host's PID 1."""
    return Path("/run/systemd/system").is_dir()


def oci_runtime() -> str:
    """crun where it works; Debian 12's refuses cgroups v1 and hybrid ones, which runc takes."""
    preferred = ("crun", "runc") if has_cgroups_v2() else ("runc", "crun")
    return next((name for name in preferred if shutil.which(name)), preferred[0])


def cgroup_manager() -> str:
    """systemd where it runs, so that it does not sweep our groups away; plain cgroups elsewhere."""
    return "systemd" if has_systemd() else "cgroupfs"


def free_subnet(taken: Sequence[ipaddress.IPv4Network], seed: int) -> str:
    """The first free /24 of the pool, looked for from a place that `seed` names; fails when all are taken."""
    pool = ipaddress.IPv4Network(SUBNET_POOL)
    count = 2 ** (SUBNET_PREFIX - pool.prefixlen)
    size = 2 ** (32 - SUBNET_PREFIX)
    for offset in range(count):
        address = int(pool.network_address) + (seed + offset) % count * size
        candidate = ipaddress.IPv4Network((address, SUBNET_PREFIX))
        if not any(candidate.overlaps(other) for other in taken):
            return str(candidate)
    raise RuntimeFailure(
        FailureReason.ENGINE_ERROR,
        f"no subnet of {SUBNET_POOL} is free on this host",
        hint="see the routes with: ip route; the pods of each agent need a /24 of their own",
    )


def routes(table: Path = Path("/proc/net/route")) -> Iterator[ipaddress.IPv4Network]:
    """The networks that this host has routes to, without the default route."""
    for line in table.read_text(errors="replace").splitlines()[1:]:
        fields = line.split()
        if len(fields) < 8 or fields[7] == "00000000" or not (_is_word(fields[1]) and _is_word(fields[7])):
            continue
        address = int.from_bytes(bytes.fromhex(fields[1]), "little")
        mask = int.from_bytes(bytes.fromhex(fields[7]), "little")
        yield ipaddress.IPv4Network(address & mask).supernet(new_prefix=mask.bit_count())


def _is_word(text: str) -> bool:
    """Whether this is a number of 32 bits as the kernel writes it."""
    return re.fullmatch(r"[0-9A-F]{8}", text) is not None


def images_in_use(lock_dir: Path) -> set[str]:
    """The ids of the images that containers of any agent of this host are made from."""
    used: set[str] = set()
    owners = lock_dir / OWNER_FILES
    for entry in owners.iterdir() if owners.is_dir() else ():
        listing = _owner(entry)[0] / "graph/overlay-containers/containers.json"
        try:
            used |= {str(container["image"]) for container in json.loads(listing.read_bytes() or b"[]")}
        except FileNotFoundError:
            continue
        except ODD_SHAPE as error:
            raise _garbled(listing, error) from error
    return used


def _owner(entry: Path) -> tuple[Path, ipaddress.IPv4Network]:
    """(storage, subnet) in the note that an agent of this host left; raises `RuntimeFailure` when it is garbled: then
    nobody knows what is in use."""
    try:
        note = json.loads(entry.read_text())
        return Path(note["storage_dir"]), ipaddress.IPv4Network(note["subnet"])
    except ODD_SHAPE as error:
        raise _garbled(entry, error) from error


def _garbled(path: Path, error: Exception) -> RuntimeFailure:
    return RuntimeFailure(
        FailureReason.ENGINE_ERROR,
        f"{path}: cannot be read: {type(error).__name__}: {error}",
        hint="remove it if no agent of this host uses that storage any more; an agent writes its own anew at its start",
    )


def _pid_in(path: Path) -> int:
    """The live process that a pid file names; 0 for none."""
    try:
        pid = int(path.read_text())
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, ValueError, IndexError):
        return 0
    return 0 if state == "Z" else pid


def write_small(path: Path, text: str) -> None:
    """Write a small file whole or not at all; leave it alone when it says the same already."""
    try:
        if path.read_text() == text:
            return
    except FileNotFoundError:
        pass
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    draft.write_text(text)
    draft.replace(path)
