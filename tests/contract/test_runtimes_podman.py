"""What only the podman engine promises: nothing readable on a disk, no hung call, no leftover, peace with others."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from agent.runtime.contract import FailureReason, FileVolume, PodPhase, RuntimeFailure, Severity
from agent.runtime.podman import PodmanRuntime
from beemesh.secret import SecretBytes, SecretText
from tests.contract.runtime_rigs import Rig, pod, podman_rig
from tests.contract.runtime_rigs import test_image as write_image

pytestmark = [pytest.mark.asyncio, pytest.mark.podman]

MARKER = "beemesh-marker-3f9c1d"


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image of busybox as an archive."""
    return write_image(tmp_path_factory.mktemp("image") / "busybox.tar")


@pytest_asyncio.fixture
async def rig(tmp_path: Path, archive: Path) -> AsyncIterator[Rig]:
    """A prepared engine with the test image, all of its disk below `tmp_path`."""
    made = podman_rig(tmp_path / "data" / "images", tmp_path)
    await made.runtime.prepare()
    await made.runtime.images.load(archive)
    yield made
    await made.runtime.teardown()


def files_with(root: Path, needle: bytes) -> list[Path]:
    """The files below a directory that hold some bytes, or have them in their name."""
    return [
        path
        for path in root.rglob("*")
        if path.is_file() and not path.is_symlink() and (needle in path.read_bytes() or needle.decode() in str(path))
    ]


async def test_no_word_of_a_secret_reaches_the_disk(rig: Rig, tmp_path: Path) -> None:
    """A marker in an env value, an argument and a file is found in no file on disk and in no process's arguments."""
    spec = pod(
        "secret-1-0",
        command=("/bin/sh", "-c", "cat /etc/s/token; exit 1"),
        restart_policy="OnFailure",
        files=(FileVolume("s", {"token": SecretBytes(MARKER.encode())}),),
        env=[{"name": "TOKEN", "value": SecretText(MARKER)}],
        volumeMounts=[{"name": "s", "mountPath": "/etc/s"}],
    )
    deployment = asyncio.create_task(rig.runtime.deploy(spec))
    while not deployment.done():
        for arguments in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                assert MARKER.encode() not in arguments.read_bytes()
            except OSError:
                continue
        await asyncio.sleep(0.01)
    await deployment
    await asyncio.sleep(0.5)
    assert files_with(rig.settings.storage_dir, MARKER.encode()), "the search finds what is there, in memory"
    assert files_with(tmp_path, MARKER.encode()) == []
    await rig.runtime.remove("secret-1-0")
    assert files_with(rig.settings.storage_dir / "files", MARKER.encode()) == []


async def test_a_hung_call_is_killed_at_its_deadline(rig: Rig, tmp_path: Path) -> None:
    """A podman that never answers is killed with its children, `Timeout` is the reason, and nothing is left."""
    fake = tmp_path / "podman"
    mark = f"{os.getpid()}.{time.monotonic_ns() % 10**6}"
    fake.write_text(
        f'#!/bin/sh\nif [ "$1 $2" = "kube play" ]; then cat >/dev/null; sleep 77{mark} & wait; fi\nexec podman "$@"\n'
    )
    fake.chmod(0o755)
    runtime = PodmanRuntime(replace(rig.settings, podman=str(fake), start_timeout_s=0.7))
    await runtime.prepare()
    started = time.monotonic()
    with pytest.raises(RuntimeFailure) as caught:
        await runtime.deploy(pod("hung-1-0"))
    assert caught.value.reason is FailureReason.TIMEOUT
    assert time.monotonic() - started < 5
    assert list(await runtime.list()) == []
    assert subprocess.run(["pgrep", "-f", f"sleep 77{mark}"], stdout=subprocess.DEVNULL).returncode == 1
    await runtime.close()


async def test_a_cancelled_deployment_is_cleaned_up(rig: Rig) -> None:
    """Cancelling in the middle leaves neither a pod nor its files."""
    task = asyncio.create_task(rig.runtime.deploy(pod("cut-1-0", files=(FileVolume("f", {"a": SecretBytes(b"x")}),))))
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert podman(rig, "pod", "ps", "-q") == ""
    assert list((rig.settings.storage_dir / "files").iterdir()) == []


def podman(rig: Rig, *words: str) -> str:
    """What podman answers when it is pointed at the rig's store."""
    result = subprocess.run(
        ["podman", *words],
        env=rig.runtime.setup.environment,
        capture_output=True,
        text=True,
        timeout=30,  # type: ignore[attr-defined]
    )
    return result.stdout.strip()


async def test_what_a_killed_agent_left_half_started_is_swept_away(rig: Rig) -> None:
    """A pod that was created but never started is removed at the next start; whole pods are left alone."""
    await rig.runtime.deploy(pod("whole-1-0"))
    document = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "half-1-0", "labels": {"beemesh.io/pod": "half-1-0"}},
        "spec": {"containers": [{"name": "main", "image": "localhost/contract:1", "imagePullPolicy": "Never"}]},
    }
    subprocess.run(
        ["podman", "kube", "play", "--start=false", "--network", "beemesh", "-"],
        input=json.dumps(document).encode(),
        env=rig.runtime.setup.environment,  # type: ignore[attr-defined]
        check=True,
        stdout=subprocess.DEVNULL,
        timeout=30,
    )
    runtime = await rig.restart()
    assert [status.pod_id for status in await runtime.list()] == ["whole-1-0"]
    assert podman(rig, "pod", "ps", "--format", "{{.Name}}") == "whole-1-0"


async def test_two_agents_of_one_host_share_images_and_disturb_nobody(rig: Rig, tmp_path: Path) -> None:
    """Two engines on one image store start pods beside a load; their networks differ, and each sees its own pods."""
    other = podman_rig(rig.settings.image_store, tmp_path / "other")
    other.make = lambda: PodmanRuntime(replace(other.settings, lock_dir=rig.settings.lock_dir))
    other.runtime = other.make()
    try:
        await other.runtime.prepare()
        second = write_image(tmp_path / "again.tar")
        await asyncio.gather(
            *(one.runtime.deploy(pod(f"{name}-1-{n}")) for one, name in ((rig, "a"), (other, "b")) for n in range(2)),
            rig.runtime.images.load(second),
        )
        assert {status.pod_id for status in await rig.runtime.list()} == {"a-1-0", "a-1-1"}
        assert {status.pod_id for status in await other.runtime.list()} == {"b-1-0", "b-1-1"}
        addresses = [podman(one, "network", "inspect", "beemesh", "--format", "{{.Subnets}}") for one in (rig, other)]
        assert addresses[0] != addresses[1]
        assert all(addresses)
    finally:
        await other.runtime.teardown()
    assert {status.phase for status in await rig.runtime.list()} == {PodPhase.RUNNING}


async def test_an_image_in_use_is_not_removed(rig: Rig) -> None:
    """An image under a container, of any agent of the host, stays; without one it goes."""
    images = rig.runtime.images
    await rig.runtime.deploy(pod("uses-1-0"))
    with pytest.raises(RuntimeFailure, match="in use"):
        await images.remove("contract:1")  # type: ignore[attr-defined]
    await rig.runtime.remove("uses-1-0")
    assert await images.remove("contract:1")  # type: ignore[attr-defined]
    assert images.find("contract:1") is None
    assert not await images.remove("contract:1")  # type: ignore[attr-defined]


async def test_an_unreachable_registry_is_named(rig: Rig) -> None:
    """A pull from a registry that does not answer is `ImagePullFailed`, says so, and leaves nothing behind."""
    with pytest.raises(RuntimeFailure, match="cannot be reached") as caught:
        await rig.runtime.deploy(pod("pull-1-0", image="127.0.0.1:1/nothing:1"))
    assert caught.value.reason is FailureReason.IMAGE_PULL_FAILED
    assert not list((rig.settings.image_store / "work").glob("pull-*"))


async def test_memory_limits_are_enforced(rig: Rig) -> None:
    """A container that takes more memory than its limit and layer allow is killed, and its end has a reason."""
    spec = pod(
        "oom-1-0",
        command=("/bin/sh", "-c", "x=a; while :; do x=$x$x; done"),
        restart_policy="Never",
        resources={"limits": {"memory": "8Mi", "ephemeral-storage": "8Mi"}},
    )
    await rig.runtime.deploy(spec)
    async with asyncio.timeout(20):
        while (status := await rig.runtime.status("oom-1-0")).phase is not PodPhase.FAILED:
            await asyncio.sleep(0.1)
    assert status.containers[0].exit_code == 137


async def test_the_store_may_be_mounted_already_and_is_told_by_check(rig: Rig) -> None:
    """`prepare` takes a mounted store as it is, and `check` names its size."""
    before = rig.settings.storage_dir.stat().st_dev
    runtime = await rig.restart()
    assert rig.settings.storage_dir.stat().st_dev == before
    findings = {finding.check: finding for finding in await runtime.check()}
    assert findings["podman"].severity is Severity.OK
    assert "64 MiB" in findings["store"].message


async def test_a_full_store_is_told(rig: Rig) -> None:
    """A store without room is `DiskFull`, and nothing of the pod is left."""
    ballast = rig.settings.storage_dir / "ballast"
    room = os.statvfs(rig.settings.storage_dir)
    ballast.write_bytes(bytes(room.f_bavail * room.f_frsize - 20 * 4096))
    with pytest.raises(RuntimeFailure) as caught:
        await rig.runtime.deploy(pod("full-1-0", files=(FileVolume("f", {"a": SecretBytes(bytes(1 << 20))}),)))
    assert caught.value.reason is FailureReason.DISK_FULL
    ballast.unlink()
    assert podman(rig, "pod", "ps", "-q") == ""
    await rig.runtime.deploy(pod("full-1-0"))


async def test_a_container_that_fails_at_once_is_slowed_down(rig: Rig) -> None:
    """It is started again once, then rests, says so, is not started by podman either, and goes when told."""
    await rig.runtime.deploy(pod("crash-1-0", command=("/bin/sh", "-c", "exit 1")))
    async with asyncio.timeout(30):
        while (status := await rig.runtime.status("crash-1-0")).reason != "CrashLoopBackOff":
            await asyncio.sleep(0.1)
    assert status.phase is PodPhase.RUNNING
    assert status.containers[0].restarts == 1
    assert podman(rig, "inspect", "crash-1-0-main", "--format", "{{.RestartCount}}") == "0"
    await rig.runtime.stop("crash-1-0", 0)
    assert (await rig.runtime.status("crash-1-0")).phase is PodPhase.FAILED


async def test_a_container_whose_conmon_was_killed_is_started_again(rig: Rig) -> None:
    """Podman would list it as running for ever; its end is written down instead, and its pod goes when told."""
    await rig.runtime.deploy(pod("lost-1-0"))
    container_id = podman(rig, "inspect", "lost-1-0-main", "--format", "{{.Id}}")
    place = rig.settings.storage_dir / "run/overlay-containers" / container_id / "userdata"
    await rig.runtime.stats("lost-1-0")
    for name in ("conmon.pid", "pidfile"):
        os.kill(int((place / name).read_text()), signal.SIGKILL)
    async with asyncio.timeout(20):
        while (status := (await rig.runtime.status("lost-1-0")).containers[0]).restarts == 0 or not status.pid:
            await asyncio.sleep(0.1)
    assert status.exit_code == 137
    started = time.monotonic()
    await rig.runtime.remove("lost-1-0")
    assert time.monotonic() - started < 5


async def test_a_command_that_hangs_leaves_nothing_behind(rig: Rig) -> None:
    """Neither its processes nor its conmon nor podman's session, at its deadline and when the caller gives up; the one
    that runs beside it goes on."""
    mark = f"77{os.getpid()}.{time.monotonic_ns() % 10**6}"
    await rig.runtime.deploy(pod("hang-1-0"))
    beside = asyncio.create_task(rig.runtime.exec("hang-1-0", "main", ["/bin/sh", "-c", "sleep 4; echo done"]))
    command = ["/bin/sh", "-c", f"sleep {mark} & sleep {mark}; true"]
    with pytest.raises(RuntimeFailure) as caught:
        await rig.runtime.exec("hang-1-0", "main", command, timeout_s=1)
    assert caught.value.reason is FailureReason.TIMEOUT
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await rig.runtime.exec("hang-1-0", "main", command)
    assert (await beside).stdout == b"done\n"
    assert subprocess.run(["pgrep", "-f", f"sleep {mark}"], stdout=subprocess.DEVNULL).returncode == 1
    assert podman(rig, "inspect", "hang-1-0-main", "--format", "{{len .ExecIDs}}") == "0"
    conmons = subprocess.run(["pgrep", "-fc", "conmon .*-n hang-1-0-main "], capture_output=True, text=True)
    assert conmons.stdout.strip() == "1"
