"""Targets: the edge of an agent. Its API, its streams, what engines and containers put out, and image archives."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import shutil
import tarfile
import time
from collections.abc import Coroutine
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from agent import files as node_files
from agent.api.app import make_app
from agent.api.auth import Gate
from agent.api.mesh import MeshReader
from agent.api.relay import Relay, serve_relayed
from agent.api.seam import Backend, ReadingBody, SubmissionBody
from agent.daemon import Agent
from agent.runtime.archive import build, look_into, unpack
from agent.runtime.contract import RuntimeFailure
from agent.runtime.images import ImageStore
from agent.runtime.logfile import LineJoiner, time_ms
from agent.runtime.podman_setup import images_in_use, routes
from agent.runtime.podman_state import (
    EngineNote,
    parse_inspect,
    parse_pods,
    parse_ps,
    pod_statuses,
    restarts_of,
    start_failure,
    with_details,
)
from agent.runtime.process_state import read_json
from agent.transport.connection import OPEN_REQUESTS_MAX, Connection
from agent.transport.streams import Streams, _introduction
from beemesh.errors import BeemeshError
from beemesh.events import PutIntent
from beemesh.identity.requests import NONCE_BYTES, sign_request
from beemesh.ids import NodeId
from beemesh.membership.messages import Introduction
from beemesh.settings import decode as settings_of
from beemesh.wire.framing import Frame, FrameKind, encode_frame
from beemesh.wire.registry import CODES
from beemesh.wire.relay import RelayedRequest
from bench.bare_mesh import BareMesh
from tests.fuzz.examples import encoded_example
from tests.fuzz.target import Call, Target
from tests.fuzz.targets_files import folder
from tests.unit.identity.cast import roster

PATIENCE_S = 3.0
"""Nothing here waits for anybody else, except where it says so with an error."""
LOOK_S = 0.05
"""A watch never ends: one look at it is enough."""

Result = TypeVar("Result")


class _Host:
    """An agent in this process, with its API and without sockets, and the keys of its operator."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        mesh = BareMesh(folder(), 1)
        self.operator = mesh.home.operator()
        self.agent = Agent(node_files.load(mesh.folder / "b0" / "config"))
        self.app = self.run(self._started())

    async def _started(self) -> Any:
        agent = self.agent
        composition = agent._composition
        agent._restore()
        agent._shell.start()
        for record in (agent._files.membership_record, *agent._files.seeds):
            agent._shell.event(PutIntent(record))
        node_id = agent._files.membership.node_id
        mesh = MeshReader(
            node_id, composition.roster, composition.view, composition.intents, composition.journal, agent._network
        )
        agent._door.mesh = mesh
        gate = Gate(composition.roster, agent._files.crypto, lambda: agent._clock.now().wall_ms)
        return make_app(Backend(mesh, gate, Relay(agent._streams, composition.view), agent._door))

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run something on this agent's loop; raises `TimeoutError` when it does not end."""
        return self.loop.run_until_complete(asyncio.wait_for(work, PATIENCE_S))


@cache
def _host() -> _Host:
    return _Host()


API_PATHS = (
    *("/healthz", "/readyz", "/metrics", "/version", "/api", "/apis", "/apis/apps/v1", "/nothing/here"),
    *("/api/v1/nodes", "/api/v1/nodes/b0", "/api/v1/pods", "/api/v1/namespaces/default/pods/a", "/api/v1/events"),
    *("/apis/apps/v1/deployments", "/api/v1/secrets", "/apis/beemesh.io/v1alpha1/tasks/x/explanation"),
    *("/apis/beemesh.io/v1alpha1/intents", "/apis/beemesh.io/v1alpha1/roster"),
    *("/apis/beemesh.io/v1alpha1/nodes/b0/checks", "/apis/beemesh.io/v1alpha1/nodes/b0/links"),
    "/api/v1/namespaces/default/pods/a/log",
)


def _requests() -> list[bytes]:
    found = [
        {"method": "GET", "path": path, "query": "limit=3&labelSelector=a%3Db&tailLines=5", "headers": {}, "body": ""}
        for path in API_PATHS
    ]
    for place, body in (("submissions", SubmissionBody), ("readings", ReadingBody)):
        path = f"/apis/beemesh.io/v1alpha1/{place}"
        text = encoded_example(body).decode("latin-1")
        found.append({"method": "POST", "path": path, "query": "dryRun=1", "headers": {"a": "b"}, "body": text})
    found.append({**found[8], "query": "watch=true"})
    return [json.dumps(each).encode() for each in found]


def _parts(data: bytes) -> dict[str, Any] | None:
    """A request in parts, if these bytes are one: methods and paths as a server passes them on."""
    try:
        parts = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(parts, dict):
        return None
    texts = {name: str(parts.get(name, "")) for name in ("method", "path", "query", "body")}
    headers = parts.get("headers")
    kept = {str(name): str(value) for name, value in headers.items()} if isinstance(headers, dict) else {}
    return {**texts, "headers": kept}


def _api() -> Call:
    """One request, signed by the operator: any answer but an internal error."""
    host = _host()

    async def ask(parts: dict[str, Any]) -> None:
        body = parts["body"].encode("latin-1", "replace")
        path, query = parts["path"][:2_000], parts["query"].encode("ascii", "replace")
        target = f"{path}?{query.decode()}" if query else path
        now_ms = time.time_ns() // 1_000_000
        signed = sign_request(host.operator, parts["method"], target, body, now_ms, secrets.token_bytes(NONCE_BYTES))
        headers = {**parts["headers"], **signed}
        raw = [(_ascii(name).lower(), _ascii(value)) for name, value in headers.items()]
        scope = {"type": "http", "http_version": "1.1", "method": parts["method"], "scheme": "https", "path": path}
        scope |= {"raw_path": path.encode("utf-8", "replace"), "query_string": query, "root_path": "", "headers": raw}
        scope |= {"server": None, "client": None, "asgi": {"version": "3.0"}}
        statuses = []

        received = False

        async def receive() -> dict[str, Any]:
            nonlocal received
            if received:
                await asyncio.Event().wait()  # the asker stays
            received = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])

        if "watch" in parts["query"] or "follow" in parts["query"]:
            try:
                await asyncio.wait_for(host.app(scope, receive, send), LOOK_S)
            except TimeoutError:
                return
        else:
            await host.app(scope, receive, send)
        assert statuses and (statuses[0] < 500 or statuses[0] in (503, 504)), f"answered {statuses}"

    def call(data: bytes) -> None:
        parts = _parts(data)
        if parts is not None:
            host.run(ask(parts))

    return call


def _ascii(text: str) -> bytes:
    return text.encode("latin-1", "replace")


def _relayed() -> Call:
    """A request that another member relays: its pieces come, and end."""
    host = _host()
    serve = serve_relayed(host.app)

    async def ask(request: RelayedRequest) -> None:
        async for piece in serve(NodeId(bytes(32)), request):
            assert msgspec.msgpack.encode(piece)

    def call(data: bytes) -> None:
        try:
            request = msgspec.msgpack.decode(data, type=RelayedRequest)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return
        if "watch" not in request.target and "follow" not in request.target:
            host.run(ask(request))

    return call


def _relayed_seeds() -> list[bytes]:
    requests = [RelayedRequest("GET", path, {"x": "y"}) for path in API_PATHS[::4]]
    return [msgspec.msgpack.encode(request) for request in requests]


# --- streams ---------------------------------------------------------------------------------------------------------


class _Sink:
    """A writer that takes everything."""

    def write(self, _data: bytes) -> None:
        """Take it."""

    async def drain(self) -> None:
        """At once."""

    def close(self) -> None:
        """Nothing is open."""

    @property
    def transport(self) -> _Sink:
        """Itself."""
        return self

    def get_write_buffer_size(self) -> int:
        """Something always waits."""
        return 1

    def get_extra_info(self, _name: str) -> None:
        """No socket is under it."""

    def is_closing(self) -> bool:
        """It goes on taking."""
        return False


def _stream_seeds() -> list[bytes]:
    kinds = ("membership.messages.PushPull", "scheduling.messages.GetLease", "custody.messages.FetchManifest")
    codes = {
        f"{kind.__module__}.{kind.__name__}".removeprefix("beemesh."): (code, kind) for kind, code in CODES.items()
    }
    frames = []
    for number, name in enumerate(kinds, start=1):
        code, kind = codes[name]
        frames += [encode_frame(Frame(each, number, code, 1_000, encoded_example(kind))) for each in FrameKind]
    relayed = encoded_example(RelayedRequest)
    frames.append(encode_frame(Frame(FrameKind.REQUEST, 9, CODES[RelayedRequest], 1_000, relayed)))
    return [b"".join(frames), *frames[::5]]


def _stream() -> Call:
    """What a verified peer may send over one connection: frames are served, or the connection ends."""
    host = _host()

    async def run(data: bytes) -> None:
        asked: list[int] = []
        streams = Streams(None, roster("a"), lambda *words: asked.append(words[1]), lambda *_: None)
        streams.piece_handlers[RelayedRequest] = serve_relayed(host.app)
        reader = asyncio.StreamReader()
        connection = Connection(NodeId(bytes(32)), reader, _Sink(), streams)
        reader.feed_data(data)
        reader.feed_eof()
        await connection.run()
        assert not streams._tokens, "an ended connection still waits for answers"
        assert len(asked) <= OPEN_REQUESTS_MAX, f"{len(asked)} requests at once"
        await asyncio.sleep(0)

    return lambda data: host.run(run(data))


def _introduction_call() -> Call:
    """What a stranger says first, to whom only a certificate of the CA's opened the door."""
    host = _host()

    async def run(data: bytes) -> None:
        reader = asyncio.StreamReader()
        reader.feed_data(data)
        reader.feed_eof()
        await _introduction(reader)

    return lambda data: host.run(run(data))


def _introductions() -> list[bytes]:
    code = CODES[Introduction]
    return [encode_frame(Frame(FrameKind.TELL, 0, code, 0, encoded_example(Introduction)))]


# --- engines ---------------------------------------------------------------------------------------------------------

PS = [
    {
        **{"Id": "c1", "Pod": "p1", "Names": ["default-hello-1-0-web"], "State": "running", "Pid": 7, "ExitCode": 0},
        **{"StartedAt": 1_700_000_000, "ExitedAt": -62_135_596_800, "Created": 1_700_000_000, "IsInfra": False},
        "Labels": {
            "beemesh.io/pod": "default-hello-1-0",
            "beemesh.io/engine": EngineNote("Always", {"web": "x"}, ()).encode(),
        },
    },
    {"Id": "c0", "Pod": "p1", "Names": None, "State": "exited", "IsInfra": True, "Labels": None},
]
INSPECT = [
    {
        **{"Id": "c1", "RestartCount": 2, "State": {"StartedAt": "2026-11-21T08:00:00.123456789Z", "OOMKilled": False}},
        "NetworkSettings": {"IPAddress": "", "Networks": {"beemesh": {"IPAddress": "10.89.0.2"}}},
    }
]


def _podman() -> Call:
    def call(data: bytes) -> None:
        for read in (
            lambda: _listed(data, data),
            lambda: _listed(json.dumps(PS).encode(), data),
            lambda: parse_pods(data),
        ):
            try:
                read()
            except RuntimeFailure:
                continue
        EngineNote.decode(data.decode("utf-8", "replace"))
        start_failure("default-hello-1-0", data.decode("utf-8", "replace"))

    return call


def _listed(ps: bytes, inspect: bytes) -> None:
    found = {each.container_id: each for each in parse_ps(ps)}
    for container_id, details in parse_inspect(inspect).items():
        restarts_of(details)
        if container_id in found:
            found[container_id] = with_details(found[container_id], details)
    pod_statuses(found.values(), [])


def _log() -> Call:
    """Whole, and byte by byte: the same lines."""

    def read(parts: list[bytes]) -> list[bytes]:
        joiner = LineJoiner(since_ms=1, timestamps=True)
        return [*(line for part in parts for line in joiner.feed(part)), *joiner.rest()]

    def call(data: bytes) -> None:
        whole = read([data])
        if len(data) < 4_096:
            assert read([data[at : at + 1] for at in range(len(data))]) == whole
        time_ms(data)

    return call


def _logs() -> list[bytes]:
    stamp = b"2026-11-21T08:00:00.123456789+00:00"
    return [b"".join(stamp + b" stdout " + flag + b" word\n" for flag in (b"F", b"P", b"P", b"F")), stamp]


def _archives() -> list[bytes]:
    path = folder() / "image.tar"
    build(path, name="localhost/x:1", files={"etc/motd": b"hello", "bin/x": b"#!"}, config={"Cmd": ["/bin/x"]})
    with tarfile.open(path) as archive:
        assert archive.getnames()
    return [path.read_bytes()]


def _archive() -> Call:
    place = folder()
    path, target = place / "image.tar", place / "root"

    def call(data: bytes) -> None:
        path.write_bytes(data)
        target.mkdir()
        try:
            look_into(path)
            unpack(path, target)
        finally:
            shutil.rmtree(target)
        assert sorted(each.name for each in place.iterdir()) == ["image.tar"], "something was written outside"

    return call


def _image_index() -> Call:
    place = folder()
    content = {"engine": "podman", "podman": {"image_store": str(place)}}
    settings = settings_of({"mesh": "home", "node": {"name": "a"}, "runtime": {"engine": content["engine"]}})
    assert settings.runtime.engine == "podman"
    index = place / "overlay-images" / "images.json"
    index.parent.mkdir()
    owners = place / "owners"

    class Settings:
        image_store = place

    def call(data: bytes) -> None:
        index.write_bytes(data)
        with contextlib.suppress(RuntimeFailure):
            ImageStore(Settings()).find("localhost/hello:1")
        read_json(index)
        _host_files(owners, data)

    return call


def _host_files(owners: Path, data: bytes) -> None:
    """What other agents of the host left in the common folder, and a table of the kernel's."""
    from agent.runtime.podman_setup import OWNER_FILES

    (owners / OWNER_FILES).mkdir(parents=True, exist_ok=True)
    (owners / OWNER_FILES / "bm0").write_bytes(data)
    with contextlib.suppress(RuntimeFailure):
        images_in_use(owners)
    (owners / "route").write_bytes(data)
    list(routes(owners / "route"))


IMAGES = [
    {
        "id": "a" * 64,
        "names": ["localhost/hello:1"],
        "digest": "sha256:" + "b" * 64,
        "big-data-digests": {"manifest": "x"},
    },
    {"storage_dir": "/nonexistent", "subnet": "10.89.0.0/24"},
]

TARGETS = (
    Target("api", "json", _api, _requests, slow=True),
    Target("relayed-request", "msgpack", _relayed, _relayed_seeds, slow=True),
    Target("stream", "bytes", _stream, _stream_seeds, slow=True),
    Target("introduction", "bytes", _introduction_call, _introductions, (BeemeshError,)),
    Target("podman-json", "json", _podman, lambda: [json.dumps(PS).encode(), json.dumps(INSPECT).encode()]),
    Target("container-log", "bytes", _log, _logs),
    Target("image-archive", "bytes", _archive, _archives, (RuntimeFailure,), slow=True),
    Target("image-index", "json", _image_index, lambda: [json.dumps(IMAGES).encode()], (), slow=True),
)
