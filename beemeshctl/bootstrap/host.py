"""One host on its way into the mesh: each method looks at what is there, and brings about what is missing."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

import msgspec

from beemesh.errors import BeemeshError
from beemesh.settings import NodeSettings
from beemesh.undecodable import UNDECODABLE
from beemeshctl.bootstrap import facts as host_facts
from beemeshctl.bootstrap import plan, rendering
from beemeshctl.bootstrap.facts import Facts
from beemeshctl.bootstrap.remote import source
from beemeshctl.bootstrap.report import HostReport, Progress, Step
from beemeshctl.bootstrap.signing import NodeKeys, SignedNode
from beemeshctl.bundle import Bundle, BundleStore
from beemeshctl.clock import wall_ms
from beemeshctl.inventory.desired import DesiredNode, ImageArchive
from beemeshctl.ssh.connection import Connection, Result

SCRIPT_TIMEOUT_S = 90.0
"""Facts and unpacking take a second or two; a machine under load gets this long."""

COMMAND_TIMEOUT_S = 120.0
"""The agent's own short commands, and systemctl, which waits for the agent to start or stop."""

IMAGE_LOAD_TIMEOUT_S = 900.0
"""podman copies every layer to the host's disk: gigabytes on a slow one."""

READY_TIMEOUT_S = 60.0
"""From the start of the service to an agent that says it is ready."""

LOG_LINES = 6
"""Enough of the agent's log to see why it ended."""


@dataclass(slots=True)
class Installed:
    """Releases that this run has put in place, so that agents which share a prefix do it once."""

    done: dict[tuple[str, str], str] = field(default_factory=dict)
    locks: dict[tuple[str, str], asyncio.Lock] = field(default_factory=dict)


class HostRun:
    """The work on one host. `changed` collects whether a restart of the agent is due."""

    def __init__(self, node: DesiredNode, report: HostReport, progress: Progress, *, check: bool) -> None:
        self.node = node
        self.report = report
        self.facts: Facts | None = None
        self.address = ""
        self.keys: NodeKeys | None = None
        self.settings: NodeSettings | None = None
        self._connection: Connection | None = None
        self._progress = progress
        self._check = check
        self._restart_due = False

    @property
    def alive(self) -> bool:
        """Whether the host is still being worked on."""
        return not self.report.failed and not self.report.unreachable

    def connected(self, connection: Connection) -> None:
        """Use this connection from now on."""
        self._connection = connection

    async def close(self) -> None:
        """Let go of the host."""
        if self._connection is not None:
            await self._connection.close()

    async def gather_facts(self) -> None:
        """Look at the host; what forbids a bootstrap is reported as problems."""
        node = self.node
        asked_ms = wall_ms()
        argument = host_facts.question(node, plan.watched_files(node))
        result = await self._script("facts", argument)
        answered_ms = wall_ms()
        if not result.ok:
            raise BeemeshError(
                f"{node.python} does not run there: {result.complaint(200)}",
                hint="install Python 3.11 or newer, or set ansible_python_interpreter",
            )
        self.facts = found = host_facts.parse(result.stdout)
        self.address = host_facts.address_of(node, found, self._connected().peer_address)
        skew_ms = host_facts.clock_skew_ms(found.wall_ms, asked_ms, answered_ms)
        for problem in host_facts.problems(node, found, skew_ms):
            self._progress.problem(self.report, problem)
        if not self.address:
            self._progress.problem(self.report, "its address cannot be told: set beemesh_address")
        for warning in host_facts.warnings(node, found):
            self._progress.warn(self.report, warning)
        if self.alive:
            version = ".".join(map(str, found.python))
            self._step("facts", False, f"Python {version}, {found.arch}, podman {found.podman.version or 'absent'}")

    async def install(self, bundles: BundleStore, installed: Installed) -> None:
        """Bring the agent's program: a release named by its content, and the launcher."""
        found, node = self._facts(), self.node
        bundle = await bundles.get(found.target)
        machine = "local" if node.connection.kind == "local" else f"{node.connection.host}:{node.connection.port}"
        place = (machine, node.prefix)
        async with installed.locks.setdefault(place, asyncio.Lock()):
            current = installed.done.get(place, found.release)
            changed = current != bundle.digest
            if changed and not self._check:
                await self._upload_release(bundle)
                installed.done[place] = bundle.digest
            program = plan.agent_program(node)
            wanted = {program: rendering.launcher(found.executable, node.prefix)}
            if place not in installed.done or changed:
                for write in plan.writes(wanted, found.files, plan.PROGRAM_MODE):
                    changed = True
                    await self._write(write)
                installed.done.setdefault(place, bundle.digest)
        # An agent that shares the prefix with one handled a moment ago still runs the release it was started with.
        self._restart_due |= changed or found.release != bundle.digest
        self._step("agent", changed, f"release {bundle.digest[:12]}")

    async def make_keys(self) -> None:
        """Have the node make its keys, once; only the public halves come back."""
        found, node = self._facts(), self.node
        if self._check and (not found.keys or self._restart_due):
            self._step("keys", not found.keys, "the node makes its own")
            return
        result = await self._agent("init", "--data-dir", node.data_dir)
        try:
            self.keys = msgspec.json.decode(result.stdout, type=NodeKeys)
        except UNDECODABLE:
            raise BeemeshError(f"beemesh-agent init answered {result.complaint()!r} instead of its keys") from None
        self._step("keys", not found.keys, f"node {self.keys.node_id[:10]}")

    async def configure(self, signed: SignedNode) -> None:
        """Put the signed files in place."""
        pending = plan.config_writes(self.node, signed.files, self._facts())
        for write in pending:
            await self._write(write)
        names = {write.path.rsplit("/", 1)[-1] for write in pending} | set(signed.renewed)
        self._restart_due |= bool(names)
        self._step("config", bool(names), ", ".join(sorted(names)))

    async def load_images(self) -> None:
        """Bring the images that the inventory lists and the host does not have."""
        settings = self._settings()
        if not self.node.images or settings.runtime.engine == "mock":
            return
        names = present = [image.name for image in self.node.images]
        if not self._check:
            listed = await self._agent("images", "list", *names, "--config-dir", self.node.config_dir)
            present = list(msgspec.json.decode(listed.stdout, type=list[str]))
        for image in self.node.images:
            due = image in plan.image_loads(self.node, self._facts(), present)
            if due and not self._check:
                await self._load_image(image)
            self._step("image", due, image.name)

    async def run_service(self) -> None:
        """Install, start or restart the service, whatever it takes."""
        settings = self._settings()
        todo = plan.service_plan(self.node, settings, self._facts(), anything_changed=self._restart_due)
        if not self._check:
            await self._carry_out(todo)
        what = {"none": "running", "start": "started", "restart": "restarted"}[todo.action]
        self._step("service", todo.changed, f"{todo.manager}, {what}")

    async def wait_ready(self) -> None:
        """Wait until the agent says that it is ready; raises `BeemeshError` with its last words when it does not."""
        if self._check:
            return
        argument = json.dumps({"socket": self.socket, "patience_s": READY_TIMEOUT_S})
        result = await self._script("wait_ready", argument, timeout_s=READY_TIMEOUT_S + 30)
        answer: dict[str, Any] = {}
        if result.ok:
            answer = json.loads(result.stdout)
        if not answer.get("ready"):
            said = answer.get("said") or result.complaint()
            raise BeemeshError(
                f"the agent is not ready after {READY_TIMEOUT_S:g} s: {said}", hint=await self._last_words()
            )
        self._step("ready", False, f"{self.address}:{self.node.api_port}")

    @property
    def was_running(self) -> bool:
        """Whether the host's agent ran before this run began."""
        return self.facts is not None and (self.facts.supervised or self.facts.service.active)

    @property
    def socket(self) -> str:
        """The agent's own socket on the host."""
        return f"{self.node.data_dir}/agent.sock"

    async def submit(self, argument: str) -> str:
        """Hand a record to the host's agent; what went wrong, or an empty string."""
        result = await self._script("submit", argument)
        if not result.ok:
            return result.complaint()
        answer = json.loads(result.stdout)
        return "" if answer["status"] == 200 else f"{answer['status']} {answer['said']}"

    async def _upload_release(self, bundle: Bundle) -> None:
        node = self.node
        archive = f"{node.prefix}/incoming/{bundle.digest}.tar.gz"
        await self._connected().put(bundle.archive, archive)
        asked = {"archive": archive, "sha256": bundle.sha256, "digest": bundle.digest, "prefix": node.prefix}
        result = await self._script("unpack", json.dumps(asked))
        if not result.ok:
            raise BeemeshError(result.complaint(), hint="run it again; if it stays so, look at the host's disk")

    async def _load_image(self, image: ImageArchive) -> None:
        node = self.node
        archive = f"{node.data_dir}/incoming/{image.sha256}.tar"
        connection = self._connected()
        try:
            await connection.put(image.archive, archive)
            words = ["images", "load", archive, "--sha256", image.sha256, "--config-dir", node.config_dir]
            await self._agent(*words, timeout_s=IMAGE_LOAD_TIMEOUT_S)
        finally:
            await connection.run(["rm", "-f", archive])
        marker = plan.image_marker(node, image)
        await connection.put(f"{image.name}\n".encode(), marker)

    async def _carry_out(self, todo: plan.ServicePlan) -> None:
        if todo.manager == "supervised":
            if todo.action != "none":
                await self._agent("service", todo.action, "--config-dir", self.node.config_dir)
            return
        for write in todo.units:
            await self._write(write)
        if todo.units or todo.action == "restart":
            await self._systemctl("daemon-reload")
        if todo.enable:
            await self._systemctl("enable", todo.unit)
        if todo.action != "none":
            await self._systemctl(todo.action, todo.unit)

    async def _systemctl(self, *words: str) -> None:
        result = await self._connected().run(["systemctl", *words], timeout_s=COMMAND_TIMEOUT_S)
        if not result.ok:
            raise BeemeshError(f"systemctl {' '.join(words)}: {result.complaint()}", hint=await self._last_words())

    async def _last_words(self) -> str:
        """The end of the agent's log, for the person who has to find out."""
        node, settings = self.node, self._settings()
        if settings.service.manager == "systemd":
            command = ["journalctl", "-u", host_facts.unit_name(node), "-n", str(LOG_LINES), "--no-pager", "-o", "cat"]
        else:
            command = ["tail", "-n", str(LOG_LINES), f"{node.data_dir}/agent.log"]
        result = await self._connected().run(command)
        text = result.stdout.decode("utf-8", "replace").strip()
        return f"its log ends with:\n{text}" if text else f"look at it there: {' '.join(command)}"

    async def _agent(self, *words: str, timeout_s: float = COMMAND_TIMEOUT_S) -> Result:
        result = await self._connected().run([plan.agent_program(self.node), *words], timeout_s=timeout_s)
        if not result.ok:
            raise BeemeshError(f"beemesh-agent {words[0]} failed: {result.complaint(1500)}")
        return result

    async def _script(self, name: str, argument: str, *, timeout_s: float = SCRIPT_TIMEOUT_S) -> Result:
        command = [self.node.python, "-I", "-", argument]
        return await self._connected().run(command, stdin=source(name), timeout_s=timeout_s)

    async def _write(self, write: plan.FileWrite) -> None:
        if not self._check:
            await self._connected().put(write.content, write.path, mode=write.mode)

    def _step(self, name: str, changed: bool, detail: str) -> None:
        self._progress.step(self.report, Step(name, changed, detail), check=self._check)

    def _connected(self) -> Connection:
        if self._connection is None:
            raise AssertionError("the host is not connected yet")
        return self._connection

    def _facts(self) -> Facts:
        if self.facts is None:
            raise AssertionError("the host was not looked at yet")
        return self.facts

    def _settings(self) -> NodeSettings:
        if self.settings is None:
            raise AssertionError("the host has no settings yet")
        return self.settings
