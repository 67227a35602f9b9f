"""What every container runtime promises: one suite, three engines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from agent.runtime.contract import (
    ContainerState,
    EventKind,
    FailureReason,
    FileVolume,
    PodPhase,
    PodStatus,
    RuntimeFailure,
    Severity,
)
from beemesh.secret import SecretBytes, SecretText
from tests.contract.runtime_rigs import IMAGE, Rig, mock_rig, pod, podman_rig, process_rig
from tests.contract.runtime_rigs import test_image as write_image

pytestmark = pytest.mark.asyncio

DEADLINE_S = 15.0
ENGINES = [pytest.param("podman", marks=pytest.mark.podman), "process", "mock"]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image of busybox as an archive."""
    return write_image(tmp_path_factory.mktemp("image") / "busybox.tar")


@pytest.fixture(scope="module")
def image_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Podman's image store, shared by the tests as it is by the agents of a host."""
    return tmp_path_factory.mktemp("store") / "images"


@pytest_asyncio.fixture(params=ENGINES)
async def rig(request: pytest.FixtureRequest, tmp_path: Path, image_store: Path, archive: Path) -> AsyncIterator[Rig]:
    """A prepared engine with the test image; torn down without a trace."""
    made = {
        "podman": lambda: podman_rig(image_store, tmp_path),
        "process": lambda: process_rig(tmp_path),
        "mock": mock_rig,
    }[request.param]()
    await made.runtime.prepare()
    await made.runtime.images.load(archive)
    yield made
    await made.runtime.teardown()
    if made.settings is not None:
        assert not made.settings.storage_dir.exists()


async def until(
    rig: Rig, pod_id: str, wanted: Callable[[PodStatus], bool], *, deadline_s: float = DEADLINE_S
) -> PodStatus:
    """Wait, with a bound, for a pod to stand as wanted."""
    async with asyncio.timeout(deadline_s):
        while not wanted(status := await rig.runtime.status(pod_id)):
            await asyncio.sleep(0.05)
    return status


async def output(rig: Rig, pod_id: str) -> bytes:
    """All that the pod's container has printed."""
    return b"".join([line async for line in rig.runtime.logs(pod_id)])


async def wait_for_output(rig: Rig, pod_id: str, text: bytes) -> bytes:
    """Wait for a text in the log."""
    async with asyncio.timeout(DEADLINE_S):
        while text not in (log := await output(rig, pod_id)):
            await asyncio.sleep(0.05)
    return log


async def failure(awaitable: Awaitable[object]) -> RuntimeFailure:
    """The failure that something must end with."""
    with pytest.raises(RuntimeFailure) as caught:
        await awaitable
    return caught.value


async def test_life_of_a_pod(rig: Rig) -> None:
    """A pod is deployed, runs, prints, stops, stays listed, and is forgotten by `remove`."""
    spec = pod("hello-1-0", command=("/bin/sh", "-c", "echo started; trap 'exit 0' TERM; while :; do sleep 0.1; done"))
    deployed = await rig.runtime.deploy(spec)
    assert deployed.phase is PodPhase.RUNNING
    assert deployed.pod_id == "hello-1-0"
    assert await wait_for_output(rig, "hello-1-0", b"started\n") == b"started\n"
    status = await rig.runtime.status("hello-1-0")
    assert [(item.name, item.image, item.state) for item in status.containers] == [
        ("main", IMAGE, ContainerState.RUNNING)
    ]
    await rig.runtime.stop("hello-1-0", 3.0)
    stopped = await until(rig, "hello-1-0", lambda now: now.phase is not PodPhase.RUNNING)
    assert (stopped.phase, stopped.containers[0].exit_code) == (PodPhase.SUCCEEDED, 0)
    await rig.runtime.remove("hello-1-0")
    assert list(await rig.runtime.list()) == []
    assert (await failure(rig.runtime.status("hello-1-0"))).reason is FailureReason.POD_NOT_FOUND
    await rig.runtime.remove("hello-1-0")


async def test_a_stop_that_is_given_up_can_be_ordered_anew(rig: Rig) -> None:
    """A pod that does not heed its request to end is ended by a second order, long before the time of the first."""
    deaf = "trap 'echo asked' TERM; echo started; while :; do sleep 0.1; done"
    await rig.runtime.deploy(pod("slow-1-0", command=("/bin/sh", "-c", deaf)))
    if rig.is_real:
        await wait_for_output(rig, "slow-1-0", b"started\n")
    first = asyncio.create_task(rig.runtime.stop("slow-1-0", 600.0))
    if rig.is_real:
        await wait_for_output(rig, "slow-1-0", b"asked\n")
        assert not first.done()
    first.cancel()
    async with asyncio.timeout(DEADLINE_S):
        await rig.runtime.stop("slow-1-0", 0.0)
    stopped = await until(rig, "slow-1-0", lambda now: now.phase is not PodPhase.RUNNING)
    assert stopped.containers[0].exit_code == (137 if rig.is_real else 0)
    await rig.runtime.remove("slow-1-0")
    assert list(await rig.runtime.list()) == []


async def test_a_stop_cuts_short_the_end_of_a_container(rig: Rig) -> None:
    """A container that does not heed `end_container` goes with its pod, at once, and is not started again."""
    deaf = "trap 'echo asked' TERM; echo started; while :; do sleep 0.1; done"
    await rig.runtime.deploy(pod("deaf-1-0", command=("/bin/sh", "-c", deaf)))
    if rig.is_real:
        await wait_for_output(rig, "deaf-1-0", b"started\n")
    ending = asyncio.create_task(rig.runtime.end_container("deaf-1-0", "main", 600.0))
    if rig.is_real:
        await wait_for_output(rig, "deaf-1-0", b"asked\n")
        assert not ending.done()
    async with asyncio.timeout(DEADLINE_S):
        await rig.runtime.stop("deaf-1-0", 0.0)
        await ending
    stopped = await until(rig, "deaf-1-0", lambda now: now.phase is not PodPhase.RUNNING)
    assert stopped.containers[0].restarts == 0


async def test_labels_and_pods_survive_a_restart_of_the_agent(rig: Rig) -> None:
    """A new runtime on the same directories finds the pod by its labels, and has not touched it."""
    labels = {"beemesh.io/task": "01H", "beemesh.io/fence": "7", "beemesh.io/workload": "deployment/default/x"}
    await rig.runtime.deploy(pod("kept-1-0", labels=labels))
    before = await until(rig, "kept-1-0", lambda now: not rig.is_real or now.containers[0].pid > 0)
    runtime = await rig.restart()
    (after,) = await runtime.list()
    assert labels.items() <= after.labels.items()
    assert after.phase is PodPhase.RUNNING
    assert [(item.pid, item.restarts) for item in after.containers] == [
        (item.pid, item.restarts) for item in before.containers
    ]
    if rig.is_real:
        assert abs(after.started_at_ms - before.started_at_ms) < 1000


async def test_another_process_ends_a_pod_at_once(rig: Rig) -> None:
    """It makes nothing ready, which would disturb the agent, lists what is there, and ends what it is told and that
    alone; the agent sees that it is gone."""
    for pod_id in ("default.web", "default.other"):
        await rig.runtime.deploy(pod(pod_id, command=("/bin/sleep", "60")))
    another = rig.beside()
    assert {each.pod_id for each in await another.list()} == {"default.web", "default.other"}
    for _ in range(2):
        await another.remove("default.web")
    await another.close()

    async with asyncio.timeout(DEADLINE_S):
        while {each.pod_id for each in await rig.runtime.list()} != {"default.other"}:
            await asyncio.sleep(0.1)
    assert (await rig.runtime.status("default.other")).phase is PodPhase.RUNNING


async def test_unknown_image_leaves_nothing(rig: Rig) -> None:
    """An image that is not there is `ImageNotFound`, named, and nothing of the pod is left."""
    spec = pod("bad-1-0", image="localhost/nope:9", command=(), imagePullPolicy="Never")
    failed = await failure(rig.runtime.deploy(spec))
    assert failed.reason is FailureReason.IMAGE_NOT_FOUND
    assert "localhost/nope:9" in failed.message
    assert list(await rig.runtime.list()) == []
    await rig.runtime.deploy(pod("bad-1-0"))


async def test_command_that_cannot_start_leaves_nothing(rig: Rig) -> None:
    """A command that does not exist is `StartFailed`, and its name may be used again."""
    if not rig.is_real:
        rig.runtime.script.failures.append(FailureReason.START_FAILED)  # type: ignore[attr-defined]
    failed = await failure(rig.runtime.deploy(pod("bad-1-0", command=("/no/such/program",))))
    assert failed.reason is FailureReason.START_FAILED
    assert list(await rig.runtime.list()) == []
    await rig.runtime.deploy(pod("bad-1-0"))


async def test_restart_policy(rig: Rig) -> None:
    """`Always` and `OnFailure` start a failing command again, `Never` does not; nor `OnFailure` after a good end."""
    cases = {"Always": 3, "OnFailure": 3, "Never": 3}
    for policy, code in cases.items():
        command = ("/bin/sh", "-c", f"sleep 0.3; exit {code}")
        await rig.runtime.deploy(pod(f"p-{policy.lower()}", command=command, restart_policy=policy))
    await rig.runtime.deploy(pod("p-good", command=("/bin/sh", "-c", "sleep 0.3"), restart_policy="OnFailure"))
    if not rig.is_real:
        for name, code in (("p-always", 3), ("p-onfailure", 3), ("p-never", 3), ("p-good", 0)):
            rig.runtime.finish(name, exit_code=code)  # type: ignore[attr-defined]
    for policy in ("always", "onfailure"):
        again = await until(rig, f"p-{policy}", lambda now: now.containers[0].restarts >= 1)
        assert again.phase is PodPhase.RUNNING
    never = await until(rig, "p-never", lambda now: now.phase is PodPhase.FAILED)
    assert (never.containers[0].exit_code, never.containers[0].restarts) == (3, 0)
    good = await until(rig, "p-good", lambda now: now.phase is PodPhase.SUCCEEDED)
    assert good.containers[0].restarts == 0


async def test_an_ended_container_runs_again_and_pauses_from_then_on(rig: Rig) -> None:
    """`end_container` asks the process to end, the policy starts it again at once, and the next time it pauses; the
    count survives a restart of the agent, and what is told to stop does not come back."""
    command = ("/bin/sh", "-c", "trap 'exit 7' TERM; while :; do sleep 0.05; done")
    await rig.runtime.deploy(pod("again-1-0", command=command))
    before = await until(rig, "again-1-0", lambda now: not rig.is_real or now.containers[0].pid > 0)
    await asyncio.sleep(0.3 if rig.is_real else 0)  # for the shell to set its trap
    await rig.runtime.end_container("again-1-0", "main", 5.0)
    again = await until(
        rig, "again-1-0", lambda now: now.containers[0].restarts == 1 and now.containers[0].state == "running"
    )
    assert again.containers[0].exit_code == (7 if rig.is_real else 143)
    if not rig.is_real:
        return
    assert again.containers[0].pid != before.containers[0].pid
    runtime = await rig.restart()
    await runtime.end_container("again-1-0", "main", 0.0)
    resting = await until(rig, "again-1-0", lambda now: now.containers[0].reason == "CrashLoopBackOff")
    assert (resting.phase, resting.containers[0].restarts) == (PodPhase.RUNNING, 1)
    await rig.runtime.stop("again-1-0", 0)
    assert (await rig.runtime.status("again-1-0")).phase is PodPhase.FAILED


async def test_environment_and_files_are_seen_inside(rig: Rig) -> None:
    """The container sees exactly the given values, also those with quotes and newlines, and its files read-only."""
    value = "a \"quoted\" 'value'\nof $two lines: \\ é"
    spec = pod(
        "env-1-0",
        files=(FileVolume("token", {"token": SecretBytes(b"\x00file\n"), "deep/one": SecretBytes(b"1")}, 0o400),),
        env=[{"name": "PLAIN", "value": "plain"}, {"name": "TOKEN", "value": SecretText(value)}],
        volumeMounts=[{"name": "token", "mountPath": "/etc/hello"}],
    )
    await rig.runtime.deploy(spec)
    seen = await rig.runtime.exec("env-1-0", "main", ["/bin/env"])
    assert f"TOKEN={value}\n".encode() in seen.stdout
    assert b"PLAIN=plain\n" in seen.stdout
    assert b"VIRTUAL_ENV" not in seen.stdout
    seen = await rig.runtime.exec("env-1-0", "main", ["/bin/cat", "/etc/hello/token"])
    assert (seen.exit_code, seen.stdout) == (0, b"\x00file\n")
    assert (await rig.runtime.exec("env-1-0", "main", ["/bin/cat", "/etc/hello/deep/one"])).stdout == b"1"
    if rig.is_real:
        write = await rig.runtime.exec("env-1-0", "main", ["/bin/sh", "-c", "echo x > /etc/hello/new"])
        assert write.exit_code != 0
    echoed = await rig.runtime.exec("env-1-0", "main", ["/bin/cat"], stdin=b"in and out")
    assert echoed.stdout == b"in and out"
    assert value not in repr(spec)
    assert "file" not in repr(spec.files[0].files["token"])


async def test_empty_dir_is_shared_and_writable(rig: Rig) -> None:
    """An emptyDir is one writable directory for the pod's containers, and is gone with the pod."""
    spec = pod("dir-1-0", volumeMounts=[{"name": "scratch", "mountPath": "/scratch"}])
    spec.pod["spec"]["volumes"] = [{"name": "scratch", "emptyDir": {}}]
    await rig.runtime.deploy(spec)
    wrote = await rig.runtime.exec("dir-1-0", "main", ["/bin/sh", "-c", "echo hi > /scratch/a"])
    assert wrote.exit_code == 0, wrote.stderr
    await rig.runtime.remove("dir-1-0")
    if rig.settings is not None:
        assert not (rig.settings.data_dir / "volumes" / "dir-1-0").exists()


async def test_ports(rig: Rig) -> None:
    """An automatic port is free, reported and answers; a taken one is `PortInUse`, named, and nothing is left."""
    serve = ("/bin/sh", "-c", "echo page > /tmp-page; exec /bin/httpd -f -p 8080 -h /")
    if rig.engine == "process":
        serve = ("/bin/httpd", "-f", "-p", "8080", "-h", "/bin")
    ports = [{"containerPort": 8080, "hostPort": 0, "name": "http"}]
    first = await rig.runtime.deploy(pod("web-1-0", command=serve, ports=ports))
    second = await rig.runtime.deploy(pod("web-1-1", command=serve, ports=ports))
    chosen = [status.ports[0] for status in (first, second)]
    assert chosen[0].host_port != chosen[1].host_port
    assert [(port.container_port, port.name, port.protocol) for port in chosen] == [(8080, "http", "TCP")] * 2
    if rig.is_real:
        for port in chosen:
            assert (await fetch(port.host_port)).startswith(b"HTTP/1.")
    assert (await rig.runtime.status("web-1-0")).ports == (chosen[0],)
    wanted = [{"containerPort": 8080, "hostPort": chosen[0].host_port}]
    failed = await failure(rig.runtime.deploy(pod("web-1-2", command=serve, ports=wanted)))
    assert failed.reason is FailureReason.PORT_IN_USE
    assert str(chosen[0].host_port) in failed.message
    assert len(await rig.runtime.list()) == 2


async def fetch(port: int) -> bytes:
    """What a web server on this host answers; waits, with a bound, until it listens."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"GET / HTTP/1.0\r\n\r\n")
                if answer := await reader.read(64):
                    writer.close()
                    return answer
                writer.close()
            except OSError:
                pass
            await asyncio.sleep(0.05)


async def test_logs_follow_and_tail(rig: Rig) -> None:
    """`follow` hands out lines as they come, `tail_lines` the last ones only."""
    command = ("/bin/sh", "-c", "for i in 1 2 3 4 5; do echo line $i; sleep 0.1; done; sleep 1000")
    await rig.runtime.deploy(pod("log-1-0", command=command))
    if not rig.is_real:
        for number in range(1, 6):
            rig.runtime.print_line("log-1-0", b"line %d" % number)  # type: ignore[attr-defined]
    seen: list[bytes] = []
    async with asyncio.timeout(DEADLINE_S):
        async for line in rig.runtime.logs("log-1-0", "main", follow=True):
            seen.append(line)
            if line == b"line 5\n":
                break
    assert seen[-5:] == [b"line 1\n", b"line 2\n", b"line 3\n", b"line 4\n", b"line 5\n"]
    tail = [line async for line in rig.runtime.logs("log-1-0", tail_lines=2)]
    assert tail == [b"line 4\n", b"line 5\n"]
    failed = await failure(anext(aiter(rig.runtime.logs("log-1-0", "other"))))
    assert failed.reason is FailureReason.POD_NOT_FOUND


async def test_events(rig: Rig) -> None:
    """Listeners hear of a start, of an end, and of a removal, in this order."""
    events = rig.runtime.events()
    await rig.runtime.deploy(pod("ev-1-0", command=("/bin/sh", "-c", "sleep 0.8"), restart_policy="Never"))
    if not rig.is_real:
        rig.runtime.finish("ev-1-0", exit_code=0)  # type: ignore[attr-defined]
    heard = []
    async with asyncio.timeout(DEADLINE_S):
        async for event in events:
            heard.append(event.kind)
            if event.kind is EventKind.EXITED:
                assert event.status.phase is PodPhase.SUCCEEDED
                await rig.runtime.remove("ev-1-0")
            if event.kind is EventKind.REMOVED:
                break
    assert heard == [EventKind.STARTED, EventKind.EXITED, EventKind.REMOVED]


async def test_concurrent_deployments(rig: Rig) -> None:
    """Several pods start at the same time, and one name is given only once."""
    results = await asyncio.gather(
        *(rig.runtime.deploy(pod(f"many-1-{number % 5}")) for number in range(6)), return_exceptions=True
    )
    refused = [result for result in results if isinstance(result, RuntimeFailure)]
    assert [result.reason for result in refused] == [FailureReason.POD_EXISTS]
    assert {status.pod_id for status in await rig.runtime.list()} == {f"many-1-{number}" for number in range(5)}


async def test_nothing_starts_whose_right_to_start_has_ended(rig: Rig) -> None:
    """It is asked after everything is prepared; then nothing of the pod is left, and its name is free."""
    with pytest.raises(RuntimeFailure) as late:
        await rig.runtime.deploy(replace(pod("late-1-0"), may_start=lambda: False))

    assert late.value.reason is FailureReason.NOT_PERMITTED
    assert await rig.runtime.list() == ()
    await rig.runtime.deploy(pod("late-1-0"))


async def test_invalid_specs_are_refused(rig: Rig) -> None:
    """What cannot run is named before anything happens, and no value of a secret is in the message."""
    spec = pod(
        "Bad_Name",
        restart_policy="Sometimes",
        files=(FileVolume("files", {"../escape": SecretBytes(b"marker-in-file")}),),
        env=[{"name": "A=B", "value": SecretText("marker-in-env")}],
        ports=[{"containerPort": 70000, "hostPort": 0}],
        volumeMounts=[{"name": "missing", "mountPath": "relative"}],
    )
    problems = rig.runtime.validate(spec)
    for word in ("Bad_Name", "Sometimes", "../escape", "A=B", "70000", "missing", "relative"):
        assert any(word in problem for problem in problems), word
    failed = await failure(rig.runtime.deploy(spec))
    assert failed.reason is FailureReason.INVALID_SPEC
    assert "marker-in" not in str(failed)


async def test_check_and_stats(rig: Rig) -> None:
    """The engine tells its health, and what a pod uses."""
    findings = await rig.runtime.check()
    assert findings
    assert all(finding.hint for finding in findings if finding.severity is Severity.ERROR)
    await rig.runtime.deploy(pod("st-1-0"))
    stats = await rig.runtime.stats("st-1-0")
    assert stats.pod_id == "st-1-0"
    assert stats.memory_bytes > 0 or not rig.is_real


async def test_images_are_loaded_once_and_checked(rig: Rig, archive: Path) -> None:
    """A second load changes nothing; an archive with another digest than expected is refused."""
    assert await rig.runtime.images.load(archive) == (IMAGE, False)
    with pytest.raises(RuntimeFailure, match="expected sha256:00"):
        await rig.runtime.images.load(archive, digest="sha256:" + "00" * 32)
    assert rig.runtime.images.find(IMAGE)
    assert rig.runtime.images.find("contract:1") == IMAGE
