"""The parts of the podman engine that need no podman: its document, its errors, its subnets and what it reads."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.runtime.command import CallResult
from agent.runtime.contract import (
    ContainerState,
    FailureReason,
    FileVolume,
    PodPhase,
    PodSpec,
    PortStatus,
    RuntimeFailure,
    StorageState,
)
from agent.runtime.health import swap_findings
from agent.runtime.images import pull_failure
from agent.runtime.mounts import filesystem_of, mounts_below
from agent.runtime.podman_exec import kill_marked, run_inside
from agent.runtime.podman_setup import PodmanSettings, PodmanSetup, free_subnet, routes
from agent.runtime.podman_state import (
    LABEL_ENGINE,
    EngineNote,
    PodmanContainer,
    parse_ps,
    pod_statuses,
    start_failure,
)
from agent.runtime.podspec import (
    VolumePlaces,
    containers,
    kube_document,
    memory_limit_bytes,
    problems,
    published_ports,
)
from agent.runtime.ports import PortPicker
from beemesh.secret import SecretBytes, SecretText
from beemesh.workloads.requirements import requirements_of
from beemesh.workloads.settings import WorkloadSettings

PLACES = VolumePlaces(Path("/m/files/p"), Path("/d/volumes/p"), Path("/m/volumes/p"))


def spec(**container: object) -> PodSpec:
    """A pod with a bit of everything."""
    item = {
        "name": "web",
        "image": "a:1",
        "env": [{"name": "T", "value": SecretText("hush")}],
        "ports": [{"containerPort": 80, "hostPort": 0, "name": "http"}, {"containerPort": 81}],
        "resources": {"limits": {"memory": "64Mi", "cpu": "500m", "ephemeral-storage": "1Mi"}},
        "volumeMounts": [
            {"name": "token", "mountPath": "/etc/t"},
            {"name": "token", "mountPath": "/etc/one", "subPath": "one"},
            {"name": "scratch", "mountPath": "/s"},
            {"name": "fast", "mountPath": "/f"},
            {"name": "host", "mountPath": "/h", "readOnly": True},
        ],
        **container,
    }
    volumes = [
        {"name": "token", "secret": {"secretName": "t"}},
        {"name": "scratch", "emptyDir": {}},
        {"name": "fast", "emptyDir": {"medium": "Memory"}},
        {"name": "host", "hostPath": {"path": "/srv"}},
    ]
    return PodSpec(
        pod_id="p",
        labels={},
        pod={"spec": {"containers": [item], "volumes": volumes}},
        files=(FileVolume("token", {"one": SecretBytes(b"1")}),),
    )


def test_the_document_for_podman() -> None:
    """Images, ports and limits are decided, volumes bound by path, and files of Secrets always read-only."""
    made = spec()
    assert problems(made) == []
    body = kube_document(made, labels={"a": "b"}, images={"web": "localhost/a:1"}, host_ports=[20001], places=PLACES)
    (item,) = body["spec"]["containers"]
    assert (item["image"], item["imagePullPolicy"]) == ("localhost/a:1", "Never")
    assert item["ports"] == [{"containerPort": 80, "hostPort": 20001, "protocol": "TCP"}]
    assert item["resources"] == {"limits": {"cpu": "500m", "memory": str((64 << 20) + (1 << 20))}}
    assert item["env"] == [{"name": "T", "value": "hush"}]
    paths = {volume["name"]: volume["hostPath"]["path"] for volume in body["spec"]["volumes"]}
    assert [(paths[mount["name"]], mount["mountPath"], mount["readOnly"]) for mount in item["volumeMounts"]] == [
        ("/m/files/p/token", "/etc/t", True),
        ("/m/files/p/token/one", "/etc/one", True),
        ("/d/volumes/p/scratch", "/s", False),
        ("/m/volumes/p/fast", "/f", False),
        ("/srv", "/h", True),
    ]
    assert "hush" not in repr(made)
    assert [wish.container_port for wish in published_ports(made)] == [80]


def test_problems_name_what_is_wrong() -> None:
    """Unresolved environment, unknown volumes and policies are told before anything starts."""
    bad = spec(
        env=[{"name": "X", "valueFrom": {}}],
        imagePullPolicy="Sometimes",
        resources={"limits": {"memory": "lots", "ephemeral-storage": "much"}, "requests": {"ephemeral-storage": []}},
        volumeMounts=[{"name": "token", "mountPath": "/a", "subPath": "../../etc"}],
    )
    found = problems(replace(bad, pod_id="-x"))
    for word in ("'X' is not resolved", "Sometimes", "'lots'", "'much'", "[]", "../../etc", "'-x'"):
        assert any(word in text for text in found), (word, found)


AMOUNTS = st.sampled_from(["0", "1", "1Mi", "1500k", "64Mi", "1Gi"])
LIMITED = st.builds(
    lambda memory, limit, request: {
        "limits": {"memory": f"{memory}Mi"} | ({} if limit is None else {"ephemeral-storage": limit}),
        "requests": {} if request is None else {"ephemeral-storage": request},
    },
    st.integers(1, 4096),
    st.none() | AMOUNTS,
    st.none() | AMOUNTS,
)


@given(st.lists(LIMITED, min_size=1, max_size=4), st.sampled_from(StorageState))
def test_containers_may_use_the_memory_that_was_reserved_for_them(
    resources: list[dict[str, dict[str, str]]], state: StorageState
) -> None:
    """What an engine lets all of them use together is what the node reserved, wherever their layers are."""
    items = [{"name": f"c{n}", "image": "a:1", "resources": each} for n, each in enumerate(resources)]
    made = PodSpec("p", {}, {"spec": {"containers": items}}, state=state)
    assert problems(made) == []

    reserved = requirements_of(made.pod["spec"], WorkloadSettings(state=state.value))

    assert sum(memory_limit_bytes(made, item) for item in items) == reserved.mem_mb << 20


def test_a_container_without_a_memory_limit_stays_without() -> None:
    """The cap of its layer alone limits nothing."""
    made = spec(resources={"limits": {"ephemeral-storage": "1Gi"}})
    assert memory_limit_bytes(made, containers(made)[0]) == 0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Error: cannot listen on the TCP port: listen tcp4 :21111: bind: address already in use", "PortInUse"),
        ("Error: localhost/nope:1: image not known", "ImageNotFound"),
        ("Error: write /x: no space left on device", "DiskFull"),
        ('exec: "/nope": stat /nope: no such file or directory: OCI runtime\nError: failed to start', "StartFailed"),
        ("fork/exec: cannot allocate memory", "OutOfMemory"),
        ("", "StartFailed"),
    ],
)
def test_podmans_errors_get_a_reason(text: str, reason: str) -> None:
    """Podman 4.3's own words, as seen, become typed failures with a hint."""
    failed = start_failure("p", text)
    assert failed.reason == reason
    assert failed.hint


def test_a_failed_start_says_why() -> None:
    """Podman counts failed containers on its last line; the cause stands before, and is what people read."""
    text = (
        "starting container 4f: a dependency of container 4f failed to start: container state improper\n"
        "starting container 9a: netavark: bridge exists\nError: failed to start 2 containers\n"
    )
    assert start_failure("p", text).message == "pod p did not start: netavark: bridge exists"


def test_a_registry_that_is_away_is_not_a_missing_image() -> None:
    """`unreachable` and `unknown` lead to different reasons."""
    away = pull_failure("r.example/a:1", "Error: dial tcp: lookup r.example: no such host")
    unknown = pull_failure("r.example/a:1", "Error: reading manifest 1: manifest unknown")
    assert (away.reason, unknown.reason) == (FailureReason.IMAGE_PULL_FAILED, FailureReason.IMAGE_NOT_FOUND)


def container(**changes: object) -> PodmanContainer:
    """A running container of pod `p`."""
    note = EngineNote("OnFailure", {"web": "a:1"}, (PortStatus(80, 20001, "TCP", "http"),))
    labels = {"beemesh.io/pod": "p", LABEL_ENGINE: note.encode(), "beemesh.io/task": "t"}
    base = PodmanContainer("id", "pp", "p-web", labels, "running", 5, 0, 1000, 0, 900, False)
    return replace(base, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "phase", "state", "reason"),
    [
        ({}, PodPhase.RUNNING, ContainerState.RUNNING, ""),
        ({"state": "created"}, PodPhase.PENDING, ContainerState.WAITING, "Created"),
        ({"state": "exited", "exit_code": 3}, PodPhase.RUNNING, ContainerState.WAITING, "Restarting"),
        ({"state": "exited", "exit_code": 0}, PodPhase.SUCCEEDED, ContainerState.EXITED, "Completed"),
    ],
)
def test_phases(changes: dict[str, object], phase: PodPhase, state: ContainerState, reason: str) -> None:
    """A pod's phase follows from its containers and its policy, as in Kubernetes."""
    (status,) = pod_statuses([container(**changes)], ()).values()
    assert (status.phase, status.containers[0].state, status.reason) == (phase, state, reason)
    assert status.ports == (PortStatus(80, 20001, "TCP", "http"),)
    assert status.labels == {"beemesh.io/pod": "p", "beemesh.io/task": "t"}


def test_stopped_and_resting_pods() -> None:
    """A pod that was told to stop is not about to restart; one that fails too often waits."""
    failed = container(state="exited", exit_code=143)
    (status,) = pod_statuses([failed], ["p"]).values()
    assert (status.phase, status.reason) == (PodPhase.FAILED, "Stopped")
    (status,) = pod_statuses([failed], (), ["id"]).values()
    assert (status.phase, status.reason) == (PodPhase.RUNNING, "CrashLoopBackOff")


def test_podmans_listing_is_read() -> None:
    """What `podman ps` prints becomes containers; a missing list is none, a damaged note an empty one."""
    entry = {"Id": "1", "Names": ["p-web"], "Labels": None, "Pod": "x", "IsInfra": True, "StartedAt": -62135596800}
    (read,) = parse_ps(json.dumps([entry]).encode())
    assert (read.infra, read.started_at_ms, read.pod_id) == (True, 0, "")
    assert parse_ps(b"null\n") == []
    assert EngineNote.decode("{broken").ports == ()


def test_subnets_do_not_collide() -> None:
    """A taken subnet is passed over, and the same seed finds the same one."""
    first = ipaddress.IPv4Network(free_subnet([], 7))
    second = ipaddress.IPv4Network(free_subnet([first], 7))
    assert first == ipaddress.IPv4Network(free_subnet([], 7))
    assert not first.overlaps(second)
    wide = ipaddress.IPv4Network("10.96.0.0/13")
    assert not ipaddress.IPv4Network(free_subnet([wide], 0)).overlaps(wide)


def test_routes_are_read(tmp_path: Path) -> None:
    """Linux' table of routes is understood; the default route takes nothing away."""
    table = tmp_path / "route"
    table.write_text(
        "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\n"
        "eth0\t00000000\t0101A8C0\t0003\t0\t0\t0\t00000000\t0\n"
        "br0\t0000590A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\n"
    )
    assert list(routes(table)) == [ipaddress.IPv4Network("10.89.0.0/24")]


def test_bridges_fit_and_differ(tmp_path: Path) -> None:
    """A bridge's name follows from the store's path and fits into the kernel's 15 characters."""
    names = {
        PodmanSetup(PodmanSettings(tmp_path / str(n), tmp_path, tmp_path / "i", tmp_path / "l")).bridge
        for n in range(9)
    }
    assert len(names) == 9
    assert all(len(name) <= 15 for name in names)


def test_ports_are_given_once() -> None:
    """Two automatic ports differ while both are reserved; a reserved one cannot be asked for."""
    picker = PortPicker((28000, 28100))
    first, second = picker.take(0, "TCP", "a"), picker.take(0, "TCP", "a")
    assert first != second
    with pytest.raises(Exception, match=str(first)):
        picker.take(first, "TCP", "b")
    picker.release("TCP", first)
    assert picker.take(first, "TCP", "b") == first


def test_mounts_and_swap_are_read(tmp_path: Path) -> None:
    """Mounts below a path are found, its file system is named, and swap in the clear is an error."""
    table = tmp_path / "mounts"
    table.write_text(
        "/dev/a / ext4 rw 0 0\ntmpfs /run/x tmpfs rw 0 0\nshm /run/x/y tmpfs rw 0 0\nt /run/xy tmpfs rw 0 0\n"
    )
    assert mounts_below(Path("/run/x"), table) == ["/run/x", "/run/x/y"]
    assert filesystem_of(Path("/run/x/z"), table) == "tmpfs"
    assert filesystem_of(Path("/etc"), table) == "ext4"
    swaps = tmp_path / "swaps"
    swaps.write_text("Filename Type Size Used Priority\n/dev/zram0 partition 1 0 1\n")
    assert swap_findings(swaps)[0].severity == "ok"
    swaps.write_text("Filename Type Size Used Priority\n/swapfile file 1 0 1\n")
    (finding,) = swap_findings(swaps)
    assert (finding.severity, "/swapfile" in finding.message, bool(finding.hint)) == ("error", True, True)


def test_only_the_command_with_the_mark_is_killed(tmp_path: Path) -> None:
    """With its process group; a session that is just being made, or is gone, is passed over."""
    running = [subprocess.Popen(["sleep", "1000"], start_new_session=True) for _ in range(2)]
    try:
        for mark, process in zip(("M=ours", "M=ours2"), running, strict=True):
            session = tmp_path / mark
            session.mkdir()
            (session / "exec-process-1").write_text(json.dumps({"env": ["PATH=/bin", mark]}))
            (session / "exec_pid").write_text(f"{process.pid}\n")
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / "exec-process-2").write_text(json.dumps({"env": ["M=ours"]}))
        kill_marked(tmp_path, "M=ours")
        assert running[0].wait(5) == -signal.SIGKILL
        assert running[1].poll() is None
    finally:
        for process in running:
            process.kill()
            process.wait()


@pytest.mark.asyncio
@pytest.mark.parametrize("hangs", [False, True])
async def test_a_command_that_hangs_is_killed_before_podman_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hangs: bool
) -> None:
    """Podman gets a moment to clean up after it, unless it hangs itself."""
    log, killed = [], asyncio.Event()

    def kill(_userdata: Path, mark: str) -> None:
        log.append("kill" if mark in words else "another")
        killed.set()

    words: list[str] = []

    async def podman(given: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> CallResult:
        words.extend(given)
        try:
            await (asyncio.Event() if hangs else killed).wait()
        except asyncio.CancelledError:
            log.append("podman is killed")
            raise
        log.append("podman cleans up")
        return CallResult(137, b"", b"")

    monkeypatch.setattr("agent.runtime.podman_exec.kill_marked", kill)
    monkeypatch.setattr("agent.runtime.podman_exec.CLEAN_UP_S", 0.05)
    with pytest.raises(RuntimeFailure) as caught:
        await run_inside(podman, "c1", ["sleep"], userdata=tmp_path, stdin=b"", timeout_s=0.01)
    assert caught.value.reason is FailureReason.TIMEOUT
    assert log == (["kill", "podman is killed", "kill"] if hangs else ["kill", "podman cleans up"])
