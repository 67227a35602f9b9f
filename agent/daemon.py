"""The agent's process: starts everything in order, keeps it going, stops it in order. Pods outlive it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent import files as node_files
from agent import heap, resources
from agent.api.app import make_app, make_metrics_app
from agent.api.auth import Gate
from agent.api.live import ANNOUNCED_S
from agent.api.mesh import MeshReader
from agent.api.relay import Relay, serve_relayed
from agent.api.seam import Backend
from agent.api.server import ApiServer
from agent.clock import Clock
from agent.door import Door
from agent.gauges import refresh
from agent.guarding import guarding_for
from agent.lasting import start_lasting
from agent.logs import set_up_logging
from agent.metrics import Metrics
from agent.network import AgentNetwork
from agent.pods import PodJobs, PodWatch
from agent.privacy import keep_memory_private
from agent.runtime.contract import RuntimeFailure
from agent.runtime.factory import runtime_for
from agent.shell import Shell
from agent.store import Store
from agent.transport.streams import Streams
from agent.transport.tls import TlsIdentity
from agent.transport.udp import UdpSocket
from beemesh.composition import Composition, compose
from beemesh.events import ClockAgreed, ClockTestimony, IntentChanged, LeaveMesh, PutIntent, RunRight, SeedIntents
from beemesh.ids import BOOT_ID_BYTES, BootId, NodeId
from beemesh.membership.swim import ROSTER_KINDS
from beemesh.scheduling.reading import EventsTold, EventsWatched
from beemesh.settings import parse_endpoint
from beemesh.wire.relay import RelayedRequest

log = logging.getLogger("beemesh.daemon")

RESOURCES_EVERY_S = 5.0
OVERRUN_TEXT = "doubtful datagrams lost unread, since more came than could be looked at"
NOT_ANSWERED = "this agent does not answer such requests"
RUNTIME_RETRY_S = 10.0
"""An engine that cannot be made ready is tried again so often; the agent serves and keeps shares meanwhile."""


def run_agent(config_directory: Path) -> int:
    """Run until SIGTERM or SIGINT; raises `BeemeshError` for what must be mended before it can start."""
    keep_memory_private()
    heap.use_one_arena()
    loaded = node_files.load(config_directory)
    set_up_logging(loaded.settings.log)
    loop_factory = None
    with contextlib.suppress(ImportError):
        import uvloop  # type: ignore[import-not-found,unused-ignore]

        loop_factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(Agent(loaded).run())
    return 0


class Agent:
    """Everything that runs in one agent."""

    def __init__(self, loaded: node_files.NodeFiles) -> None:
        self._files = loaded
        settings = loaded.settings
        self._settings = settings
        self._data = Path(settings.paths.data)
        self._clock = Clock(floor_ms=loaded.config_signed_ms)
        self._metrics = Metrics()
        self._store = Store(self._data / "state.db")
        self._composition = compose(
            settings,
            loaded.membership,
            loaded.membership_record,
            loaded.ca_key,
            loaded.ring,
            loaded.crypto,
            random.SystemRandom(),
            BootId(os.urandom(BOOT_ID_BYTES)),
            is_warm=self._is_warm,
        )
        self._runtime = runtime_for(settings)
        self._guarding = guarding_for(loaded)
        self._shell = Shell(self._composition.node, self._store, self._clock, self._start_job, self._observe)
        self._tls = TlsIdentity(
            mesh=settings.mesh,
            name=loaded.membership.name,
            crypto=loaded.crypto,
            ca_pem=loaded.ca_pem,
            issuing_pem=loaded.issuing_pem,
            roster=self._composition.roster,
            wall_ms=lambda: self._clock.now().wall_ms,
        )
        self._streams = Streams(
            self._tls,
            self._composition.roster,
            self._on_request,
            self._on_tell,
            card=loaded.membership_record,
            on_card=lambda card: self._shell.event(PutIntent(card)),
            on_later=lambda node_id, wall_ms: self._shell.event(ClockTestimony(node_id, wall_ms)),
        )
        address = loaded.membership.addresses[0]
        self._watch = PodWatch(
            self._runtime, loaded.membership.node_id, address, self._shell.event, self._metrics.count
        )
        self._jobs = PodJobs(self._runtime, settings.mesh, loaded.membership.name, self._shell.event, self._watch)
        self._network = AgentNetwork(self._shell, self._streams)
        self._shell.connect(self._network)
        self._door = Door(
            files=loaded,
            composition=self._composition,
            shell=self._shell,
            network=self._network,
            runtime=self._runtime,
            watch=self._watch,
            metrics=self._metrics,
            clock=self._clock,
        )
        self._metrics.before_reading(lambda: refresh(self._metrics, self._composition))
        self.observers: list[Callable[[Any], None]] = []
        """Who hears, besides the API, what the protocols tell."""
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[Any]] = []

    def _is_warm(self, node_id: NodeId) -> bool:
        return self._streams.is_open(node_id)

    def _start_job(self, effect: Any) -> None:
        self._jobs.start(effect)

    @property
    def shell(self) -> Shell:
        """What carries this node's effects out."""
        return self._shell

    @property
    def composition(self) -> Composition:
        """The node and its protocols."""
        return self._composition

    def stop(self) -> None:
        """Let `run` end, in order."""
        self._stop.set()

    def _observe(self, event: Any) -> None:
        if isinstance(event, RunRight) and self._guarding is not None:
            self._guarding.hear(event)
        self._door.observe(event)
        for observer in self.observers:
            observer(event)
        if isinstance(event, IntentChanged) and event.intent.kind in ROSTER_KINDS:
            self._streams.close_strangers()
        elif isinstance(event, ClockAgreed) and self._clock.move_on(event.wall_ms):
            log.warning("the machine's clock is too early: members agree on a later time, which is used instead")
            self._tls.renew()

    def _on_request(self, peer: Any, token: int, message: Any, _deadline_s: float) -> None:
        if not self._composition.node.handles(message):
            self._network.refuse(token, NOT_ANSWERED)
            return
        self._shell.carry(self._composition.node.asked(peer, token, message, self._shell.now))

    def _on_tell(self, peer: Any, message: Any) -> None:
        self._shell.carry(self._composition.node.told(peer, message, self._shell.now))

    async def run(self) -> None:
        """Start, wait for a signal, stop."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        if self._guarding is not None:
            self._guarding.take_over()
        self._restore()
        gossip = parse_endpoint(self._settings.listen.gossip)
        udp = UdpSocket(gossip.host, gossip.port, self._shell.datagram, self._composition.node.is_likely)
        self._metrics.before_reading(lambda: self._metrics.raise_to("datagrams_overrun", udp.overrun, OVERRUN_TEXT))
        self._network.use_socket(udp)
        await self._streams.start(gossip.host, gossip.port)
        # Before anybody can ask anything: what a node waits for after its start holds for whatever it is asked.
        self._shell.start()
        self._shell.event(SeedIntents(self._files.seeds))
        self._look_at_resources()
        udp.start()
        api = await self._start_api()
        self._tasks = [
            start_lasting(self._prepare_runtime, "the preparation of the engine"),
            start_lasting(self._watch_resources, "the watch of the machine"),
            start_lasting(self._tls.stay_valid, "the renewal of the node's certificate"),
        ]
        heap.settle()
        log.info("agent of node %s is up", self._files.membership.name)
        await self._stop.wait()
        log.info("agent of node %s stops; its pods go on", self._files.membership.name)
        await self._close(api, udp)

    def _restore(self) -> None:
        now = self._clock.now()
        # The CA's records first: they entitle what operators signed.
        for record in (self._files.membership_record,):
            self._composition.intents.merge(record, now)
        for table in self._composition.node.tables():
            self._composition.node.restore(table, list(self._store.rows(table)), now)

    async def _start_api(self) -> ApiServer:
        composition = self._composition
        mesh = MeshReader(
            self._files.membership.node_id,
            composition.roster,
            composition.view,
            composition.intents,
            composition.journal,
            self._network,
        )
        mesh.gatherer.told = lambda events: self._shell.event(EventsTold(events))
        mesh.live.announce = lambda: self._shell.event(EventsWatched(2 * ANNOUNCED_S))
        gate = Gate(composition.roster, self._files.crypto, lambda: self._clock.now().wall_ms)
        relay = Relay(self._streams, composition.view)
        backend = Backend(mesh, gate, relay, self._door)
        app = make_app(backend)
        self._door.mesh = mesh
        self._streams.piece_handlers[RelayedRequest] = serve_relayed(app)
        server = ApiServer(app, self._tls)
        listen = parse_endpoint(self._settings.listen.api)
        await server.start(listen.host, listen.port, self._data / "agent.sock")
        if self._settings.listen.metrics:
            plain = parse_endpoint(self._settings.listen.metrics)
            await server.start_plain(make_metrics_app(backend), plain.host, plain.port)
        return server

    async def _prepare_runtime(self) -> None:
        while True:
            try:
                await self._runtime.prepare()
                break
            except RuntimeFailure as error:
                if error.message != self._door.runtime_error:
                    log.error("the %s engine is not ready: %s", self._settings.runtime.engine, error)
                self._door.runtime_error = error.message
                await asyncio.sleep(RUNTIME_RETRY_S)
        self._door.runtime_error = ""
        await self._watch.start()

    async def _watch_resources(self) -> None:
        while True:
            await asyncio.sleep(RESOURCES_EVERY_S)
            self._look_at_resources()
            self._shell.try_store()
            heap.give_back()

    def _look_at_resources(self) -> None:
        self._shell.event(resources.observe(self._data))

    async def _close(self, api: ApiServer, udp: UdpSocket) -> None:
        if os.environ.get("BEEMESH_LEAVE"):
            self._shell.event(LeaveMesh())
        for task in self._tasks:
            task.cancel()
        await api.close()
        await self._watch.close()
        await self._jobs.close()
        await self._runtime.close()
        self._shell.close()
        await self._streams.close()
        udp.close()
        await self._store.close()
