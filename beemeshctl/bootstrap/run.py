"""The whole bootstrap: phase by phase over all hosts in parallel, each host failing for itself.

Every phase looks at what is there first, so a run that was cut off is finished by the next one, and a run with nothing
to do changes nothing.
"""

from __future__ import annotations

import asyncio
import getpass
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from beemesh.errors import BeemeshError, InvalidInput, NotAllowed, Unreachable, Untrusted
from beemesh.identity.membership_card import Membership
from beemesh.identity.signing import Signed
from beemesh.ids import to_text
from beemesh.settings import Endpoint
from beemeshctl.bootstrap import facts as host_facts
from beemeshctl.bootstrap import rendering
from beemeshctl.bootstrap.announcing import Announcer
from beemeshctl.bootstrap.host import HostRun, Installed
from beemeshctl.bootstrap.report import HostReport, Progress, Report
from beemeshctl.bootstrap.signing import CONFIG_FILES, Authority, SignedNode, card_in, card_of, choose_seeds
from beemeshctl.bundle import BundleStore
from beemeshctl.clock import wall_ms
from beemeshctl.context import AgentEntry, Context, Home
from beemeshctl.inventory.desired import DesiredNode
from beemeshctl.keyfile import Passphrase
from beemeshctl.ssh.host_keys import HostKeys
from beemeshctl.ssh.opening import open_connection


@dataclass(frozen=True, slots=True)
class Options:
    """How to go about it. `forks`: hosts at a time; `connect_timeout_s`: patience with one that does not answer."""

    check: bool = False
    forks: int = 20
    accept_new_host_keys: bool = False
    connect_timeout_s: float = 15.0


class Bootstrap:
    """One run over some hosts of an inventory."""

    def __init__(
        self, nodes: list[DesiredNode], home: Home, passphrase: Passphrase, options: Options, progress: Progress
    ) -> None:
        """`nodes` are the chosen hosts, all of one mesh."""
        self._home = home
        self._options = options
        self._progress = progress
        self._authority = Authority(home, passphrase, check=options.check)
        self._keys = HostKeys(home.known_hosts_file, accept_new=options.accept_new_host_keys and not options.check)
        self._mesh = nodes[0].mesh
        self.report = Report(self._mesh, options.check)
        self._hosts = [self._host(node) for node in nodes]
        self._slots = asyncio.Semaphore(options.forks)

    async def run(self) -> Report:
        """Carry it out. Raises `BeemeshError` only for what concerns the mesh as a whole; hosts fail in the report."""
        self._check_mesh()
        try:
            self._progress.phase("connect and look at every host")
            await self._each(self._look)
            if self._alive():
                self._progress.phase("install the agent")
                bundles = BundleStore(self._home.bundles)
                installed = Installed()
                await self._each(lambda host: host.install(bundles, installed))
                await self._each(HostRun.make_keys)
            if self._alive():
                await self._sign_and_start()
        finally:
            await asyncio.gather(*(host.close() for host in self._hosts), return_exceptions=True)
        return self.report

    def _host(self, node: DesiredNode) -> HostRun:
        report = HostReport(node.host, node.name)
        self.report.hosts.append(report)
        return HostRun(node, report, self._progress, check=self._options.check)

    def _alive(self) -> list[HostRun]:
        return [host for host in self._hosts if host.alive]

    def _check_mesh(self) -> None:
        if self._home.exists():
            mesh = self._home.context().mesh
            if mesh != self._mesh:
                raise InvalidInput(
                    f"{self._home.path} belongs to the mesh {mesh!r}, and the inventory names {self._mesh!r}",
                    hint="a mesh is never renamed: correct beemesh_mesh, or set BEEMESH_HOME to another folder",
                )

    async def _look(self, host: HostRun) -> None:
        connection = await open_connection(
            host.node.connection, self._keys, connect_timeout_s=self._options.connect_timeout_s
        )
        host.connected(connection)
        await host.gather_facts()

    async def _sign_and_start(self) -> None:
        self._progress.phase("sign and configure")
        if not self._options.check:
            operator = _operator_name()
            self.report.created = self._authority.create(self._mesh, operator, wall_ms())
        signed = self._sign()
        if not self._options.check:
            self._save_context()
        await self._each(lambda host: host.configure(signed[host.node.name]))
        await self._each(HostRun.load_images)
        self._progress.phase("run the agent")
        await self._announce([host for host in self._alive() if host.was_running])
        await self._each(HostRun.run_service)
        await self._each(HostRun.wait_ready)
        for record, said in await self._announce(self._alive()):
            self._progress.warn(
                self.report.hosts[0],
                f"the mesh could not be told about {record}: {said}; run bootstrap again, with an older node in it",
            )

    async def _announce(self, hosts: list[HostRun]) -> list[tuple[str, str]]:
        """Tell the mesh what it cannot know from its nodes' seeds; returns what nobody took, and why."""
        left: list[tuple[str, str]] = []
        if self._options.check or not hosts:
            return left
        announcer = Announcer(self._home, self._authority)
        for announcement in announcer.pending():
            said = "no node that lacks it was in this run"
            for host in hosts:
                if host.node.name not in announcement.unaware or not host.alive:
                    continue
                try:
                    said = await host.submit(announcer.request(announcement, host.socket))
                except BeemeshError as error:
                    said = error.message
                if not said:
                    announcer.done(announcement)
                    break
            if said:
                left.append((announcement.what, said))
        return left

    def _sign(self) -> dict[str, SignedNode]:
        """Every living host's files. All cards come first, so that each new node starts with all of them; and all bear
        one moment, by which replicas of leases know that no keeper was there before (`beemesh.dht.abstention`)."""
        now_ms = wall_ms()
        cards: dict[str, Membership] = {}
        for host in self._alive():
            with _Blaming(host, self._progress):
                self._card(host, cards, now_ms)
        known = self._authority.cards([host.node.name for host in self._hosts])
        signed: dict[str, SignedNode] = {}
        for host in self._alive():
            name = host.node.name
            if host.keys is None or name not in cards or not self._home.exists():
                # Only under --check: what depends on keys that are not made yet cannot be told in advance.
                signed[name] = SignedNode({}, CONFIG_FILES)
                continue
            signed[name] = self._authority.sign_node(
                host.keys,
                cards[name],
                partial(self._render, host, _endpoints(known)),
                known.values(),
                choose_seeds(name, list(known)),
                now_ms,
            )
        return signed

    def _card(self, host: HostRun, cards: dict[str, Membership], now_ms: int) -> None:
        found, node = host.facts, host.node
        if found is None:
            return
        manager = host_facts.service_manager(node, found)
        host.settings = rendering.settings_of(node, manager=manager, seeds=())
        if host.keys is not None:
            card = card_of(node, host.settings, host.keys, address=host.address, machine=found.machine)
            cards[node.name] = card
            if not self._options.check:
                self._authority.sign_card(card, now_ms)

    @staticmethod
    def _render(host: HostRun, endpoints: dict[str, str], seeds: Sequence[str]) -> bytes:
        manager = host.settings.service.manager if host.settings else host.node.service
        addresses = [endpoints[name] for name in seeds if name in endpoints]
        host.settings = rendering.settings_of(host.node, manager=manager, seeds=addresses)
        return rendering.node_yaml(host.settings)

    def _save_context(self) -> None:
        old = self._home.context()
        agents = [
            AgentEntry(card.name, to_text(card.node_id), card.addresses[0], card.api_port, card.gossip_port)
            for card in map(card_in, self._authority.cards([host.node.name for host in self._hosts]).values())
        ]
        former = {agent.name: index for index, agent in enumerate(old.agents)}
        agents.sort(key=lambda agent: former.get(agent.name, len(former)))
        self._home.save_context(Context(old.mesh, old.operator, tuple(agents)))

    async def _each(self, work: Callable[[HostRun], Awaitable[None]]) -> None:
        """Do one thing on every host that is still alive; a host's failure is its own."""

        async def one(host: HostRun) -> None:
            async with self._slots:
                with _Blaming(host, self._progress):
                    await work(host)

        # Unlike gather, a group that is interrupted waits until all have ended the processes that they had started.
        async with asyncio.TaskGroup() as group:
            for host in self._alive():
                group.create_task(one(host))


class _Blaming:
    """Turns an error into the host's failure instead of everybody's."""

    def __init__(self, host: HostRun, progress: Progress) -> None:
        self._host, self._progress = host, progress
        self._connecting = host.facts is None

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if error is None or not isinstance(error, Exception):
            return False
        lost = isinstance(error, Unreachable) or (self._connecting and isinstance(error, NotAllowed | Untrusted))
        text = str(error) if isinstance(error, BeemeshError) else f"internal error: {type(error).__name__}: {error}"
        self._progress.fail(self._host.report, text, unreachable=lost)
        return True


def _endpoints(known: Mapping[str, Signed]) -> dict[str, str]:
    cards = {name: card_in(signed) for name, signed in known.items()}
    return {name: str(Endpoint(card.addresses[0], card.gossip_port)) for name, card in cards.items()}


def _operator_name() -> str:
    """The operator's name in certificates: who runs this, as a DNS label."""
    name = re.sub(r"[^a-z0-9]+", "-", getpass.getuser().lower()).strip("-")
    return name[:63] or "operator"
