"""What peers and askers may get wrong at the edge of an agent: it ends there, and costs no memory."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from agent import network as network_module
from agent.api import records, relay
from agent.api.auth import Gate
from agent.api.mesh import MeshReader
from agent.api.relay import PIECES_WAITING_MAX, serve_relayed
from agent.api.seam import AgentDoor, Backend, SubmissionBody
from agent.api.server import tcp_listener
from agent.door import grant_findings, membership_findings
from agent.network import LOOK_UPS_MAX, AgentNetwork
from agent.runtime.contract import Severity
from agent.transport.connection import Connection
from agent.transport.load import ANSWER_BYTES_MAX
from agent.transport.streams import Streams
from beemesh.crypto_native import NativeCrypto
from beemesh.custody.messages import ManifestAnswer
from beemesh.effects import Reply
from beemesh.errors import KeepersFailed, NotAllowed, Unreachable
from beemesh.events import Submitted
from beemesh.identity.membership_card import MEMBERSHIP_LIFETIME_MS
from beemesh.identity.requests import sign_request
from beemesh.identity.signing import Signed
from beemesh.ids import Digest, NodeId
from beemesh.intents.record import IntentKind, operator_key, quota_key, sign_intent
from beemesh.membership.view import View
from beemesh.scheduling.messages import GetLease
from beemesh.wire.framing import Frame, FrameDecoder, FrameKind, encode_frame
from beemesh.wire.registry import encode_message
from beemesh.wire.relay import RelayedHead, RelayedRequest
from beemesh.workloads.policies import Quota
from beemeshctl.client import error_of
from tests.unit.identity.cast import CA, MESH, NOW_MS, grant, keys, roster

PEER = NodeId(bytes(32))


class Writer:
    """The other end of a stream: keeps what is written to it."""

    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes) -> None:
        """Keep it."""
        self.written += data

    async def drain(self) -> None:
        """At once."""

    def close(self) -> None:
        """Nothing is open."""

    def is_closing(self) -> bool:
        """Never."""
        return False

    def get_extra_info(self, _name: str) -> None:
        """There is no socket."""

    @property
    def transport(self) -> Writer:
        """Itself."""
        return self

    def get_write_buffer_size(self) -> int:
        """Nothing waits."""
        return 0


def request(frame_id: int) -> bytes:
    """A request that protocols may answer later."""
    code, body = encode_message(GetLease("lease/x/0"))
    return encode_frame(Frame(FrameKind.REQUEST, frame_id, code, 1_000, body))


async def served(data: bytes, refuse: bool = False) -> tuple[list[int], list[Frame]]:
    """(tokens of the requests that reached the node, frames that went back)."""
    tokens: list[int] = []

    def asked(_peer: NodeId, token: int, *_rest: Any) -> None:
        tokens.append(token)
        if refuse:
            streams.refuse(token, "not here")

    streams = Streams(None, roster("a"), asked, lambda *_: None)  # type: ignore[arg-type]
    reader, writer = asyncio.StreamReader(), Writer()
    connection = Connection(PEER, reader, writer, streams)  # type: ignore[arg-type]
    reader.feed_data(data)
    running = asyncio.create_task(connection.run())
    done = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(0.05, done.set_result, None)
    await done
    reader.feed_eof()
    await running
    assert not streams._tokens
    return tokens, list(FrameDecoder().feed(writer.written))


@pytest.mark.parametrize("follow", [False, True])
@pytest.mark.asyncio
async def test_a_node_that_hangs_is_told_of_as_such(follow: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asked through us hears that the other agent does not answer, and not of a fault of ours."""

    class Hung:
        """The streams of an agent, and its view: the peer is there, and says nothing."""

        def address(self, _peer: NodeId) -> tuple[str, int]:
            """Somewhere."""
            return "127.0.0.1", 1

        async def pieces(self, *_words: Any) -> AsyncIterator[msgspec.Struct]:
            """Nothing comes."""
            await asyncio.Event().wait()
            yield RelayedHead(200, {})

    monkeypatch.setattr(relay, "HEAD_PATIENCE_S", 0.01)
    hung: Any = Hung()
    with pytest.raises(Unreachable, match=r"did not answer within 0\.01 s"):
        await relay.Relay(hung, hung).forward(PEER, "GET", "/x", {}, follow=follow)


def test_one_number_for_many_requests_ends_the_stream() -> None:
    """A peer cannot hide how many requests wait behind one number: at the second the stream ends."""
    tokens, _ = asyncio.run(served(request(7) * 5_000))

    assert len(tokens) == 1


@pytest.mark.asyncio
async def test_answers_that_come_late_are_bounded_too() -> None:
    """Requests that were read while nothing waited may all be answered later, with much: past the bound their asker is
    told so instead, and every one of them keeps its place until its answer is written."""

    class Slow(Writer):
        async def drain(self) -> None:
            await asyncio.Event().wait()

        def get_write_buffer_size(self) -> int:
            return len(self.written)

        def abort(self) -> None:
            self.written = b""

    tokens: list[int] = []
    streams = Streams(cast(Any, None), roster("a"), lambda *words: tokens.append(words[1]), lambda *_: None)
    reader = asyncio.StreamReader()
    connection = Connection(PEER, reader, cast(Any, Slow()), streams)
    reader.feed_data(b"".join(request(number) for number in range(100)))
    read = asyncio.create_task(connection.run())
    while len(tokens) < 100:
        await asyncio.wait((read,), timeout=0.01)

    for token in tokens:
        streams.reply(token, ManifestAnswer(Digest(b"m"), bytes(1024 * 1024)))

    load = streams.load(PEER)
    assert load.is_overfull
    assert load._answer_bytes < 2 * ANSWER_BYTES_MAX + 2 * 1024 * 1024
    assert len(connection._serving) == 100
    read.cancel()
    await streams.close()


def test_a_request_that_nobody_takes_is_answered_and_its_place_is_free() -> None:
    """Each of many such requests is told so at once, however many there were before."""
    tokens, frames = asyncio.run(served(b"".join(request(number) for number in range(100)), refuse=True))

    assert len(tokens) == 100
    assert {(frame.kind, frame.body) for frame in frames} == {(FrameKind.ERROR, b"not here")}
    assert len(frames) == 100


def test_a_question_of_the_api_to_its_own_node_that_is_refused_ends_at_once() -> None:
    """As a peer's would: the disk refuses what the answer relies on, and nobody waits for the deadline."""

    async def ask() -> None:
        node = SimpleNamespace(self_id=PEER, asked=lambda _peer, token, *_: [token])
        shell: Any = SimpleNamespace(node=node, now=None, carry=lambda tokens: network.refuse(tokens[0], "a full disk"))
        network = AgentNetwork(shell, cast(Any, None))
        with pytest.raises(Unreachable, match="a full disk"):
            await network.ask_node(PEER, GetLease("lease/x/0"), 1_000.0)

    asyncio.run(ask())


def test_a_question_that_breaks_on_a_fault_of_ours_is_answered() -> None:
    """Whoever put it waits for its end, whatever the reason that it cannot be put: here streams without any TLS."""

    async def post() -> tuple[object, str]:
        known = roster("a")
        streams = Streams(None, known, lambda *_: None, lambda *_: None)  # type: ignore[arg-type]
        done: asyncio.Future[tuple[object, str]] = asyncio.get_running_loop().create_future()
        peer = known.members()[0].node_id
        streams.post(peer, ("127.0.0.1", 1), GetLease("k"), 1.0, lambda *words: done.set_result(words))
        return await asyncio.wait_for(done, 10)

    answer, why = asyncio.run(post())

    assert answer is None
    assert "the question broke" in why


def test_a_request_that_has_no_answer_frees_its_place() -> None:
    """A protocol that has nothing to say lets go of the request, the agent's own too: an open one would count for ever
    toward how many a peer may have."""

    async def ask() -> tuple[list[tuple[int, str]], str]:
        refused: list[tuple[int, str]] = []
        streams = SimpleNamespace(refuse=lambda *about: refused.append(about))
        network = AgentNetwork(None, streams)  # type: ignore[arg-type]
        own = network._own[7] = asyncio.get_running_loop().create_future()
        network.reply(Reply(1, None))
        network.reply(Reply(7, None))
        return refused, str(own.exception())

    refused, why = asyncio.run(ask())
    assert [token for token, _ in refused] == [1]
    assert "no answer" in why


class Sending:
    """An agent's network whose datagrams go nowhere, and the resolver that it asks."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.network = AgentNetwork(None, None)  # type: ignore[arg-type]
        self.network.use_socket(self)  # type: ignore[arg-type]
        self.sent: list[str] = []
        self.asked: list[str] = []
        self.answers = asyncio.Event()
        self.answers.set()
        self.address = "192.0.2.1"
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", self._look_up)

    async def _look_up(self, host: str, _port: None) -> list[Any]:
        self.asked.append(host)
        await self.answers.wait()
        if ".." in host:
            raise UnicodeError("label empty")
        return [(0, 0, 0, "", (self.address, 0))]

    def send(self, address: tuple[str, int], _data: bytes) -> None:
        """As the socket's: note where it goes."""
        self.sent.append(address[0])

    async def to(self, *hosts: str) -> list[str]:
        """Send to each host in turn; where the datagrams went, once all is looked up."""
        self.sent = []
        for host in hosts:
            self.network.transmit((host, 7946), b"")
            if self.answers.is_set():
                await asyncio.gather(*self.network._tasks)
        return self.sent


@pytest.mark.parametrize("hosts", [[f"10.0.0.{n}" for n in range(9)], [f"evil-{n}" for n in range(9)]])
def test_many_hosts_of_one_member_keep_no_name_from_being_looked_up(
    monkeypatch: pytest.MonkeyPatch, hosts: list[str]
) -> None:
    """Who says ever another address, as IP or as name, fills no table: names not met before are found, and those that
    have moved are found again."""
    monkeypatch.setattr(network_module, "NAMES_MAX", 4)
    monkeypatch.setattr(network_module, "RESOLVED_S", 0.0)

    async def run() -> None:
        sending = Sending(monkeypatch)
        assert await sending.to("node-a", "node-a") == ["192.0.2.1"]
        for host in hosts:
            await sending.to(host, "node-a")
        assert await sending.to("node-b", "node-b") == ["192.0.2.1"]
        sending.address = "192.0.2.2"
        assert await sending.to("node-a", "node-a") == ["192.0.2.1", "192.0.2.2"]
        assert len(sending.network._names) <= 4

    asyncio.run(run())


def test_an_ip_address_is_neither_looked_up_nor_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Datagrams to it leave at once, and a name that is in use stays known however many there are."""
    monkeypatch.setattr(network_module, "NAMES_MAX", 1)

    async def run() -> None:
        sending = Sending(monkeypatch)
        assert await sending.to("10.0.0.1", "node-a", "fd00::1", "node-a") == ["10.0.0.1", "fd00::1", "192.0.2.1"]
        assert sending.asked == ["node-a"]

    asyncio.run(run())


def test_the_name_that_waited_longest_is_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that datagrams go to stays known while others come and go."""
    monkeypatch.setattr(network_module, "NAMES_MAX", 2)

    async def run() -> None:
        sending = Sending(monkeypatch)
        await sending.to("node-a", "node-b", "node-a", "node-c", "node-a", "node-b")
        assert sending.asked == ["node-a", "node-b", "node-c", "node-b"]

    asyncio.run(run())


def test_look_ups_are_few_at_once_and_one_of_each_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resolver that takes its time is asked for a few names, and for none twice; when it is done, for others. A name
    that it does not take is one that is not found."""

    async def run() -> None:
        sending = Sending(monkeypatch)
        sending.answers.clear()
        names = ["a..b", *(f"node-{number}" for number in range(9))]
        await sending.to(*(name for name in names for _ in range(2)))
        sending.answers.set()
        await asyncio.gather(*sending.network._tasks)
        assert sending.asked == names[:LOOK_UPS_MAX]

        assert await sending.to(*names[1:], *names[1:]) == ["192.0.2.1"] * (9 + LOOK_UPS_MAX - 1)
        assert sorted(sending.asked) == sorted(names)

    asyncio.run(run())


async def hello(request: Request) -> Response:
    """Tells the headers that came."""
    return Response(json.dumps(sorted(request.headers)))


async def broken(_request: Request) -> Response:
    """Fails."""
    raise KeyError("a fault of ours")


@pytest.mark.parametrize(
    ("target", "status"),
    [("/hello", 200), ("/broken", 500), ("/\udcff".encode("utf-8", "replace").decode(), 404)],
)
def test_a_relayed_request_ends_whatever_it_says(target: str, status: int) -> None:
    """Headers that no header can be, and a fault behind the door: the asker gets an answer, and nothing hangs."""
    serve = serve_relayed(Starlette(routes=[Route("/hello", hello), Route("/broken", broken)]))
    asked = RelayedRequest("GET", target, {"x-\u2603": "\U0001f41d", "x-beemesh-operator": "\u2603"})

    async def pieces() -> list[Any]:
        async with asyncio.timeout(10):
            return [piece async for piece in serve(PEER, asked)]

    answer = asyncio.run(pieces())

    assert isinstance(answer[0], RelayedHead)
    assert answer[0].status == status


def test_whoever_stops_reading_a_relayed_answer_leaves_nothing_behind() -> None:
    """A log that is followed fills all the room there is: what waits to be read is dropped, and its writer ends."""

    async def stop_reading() -> None:
        is_full = asyncio.Event()

        async def lines() -> AsyncIterator[bytes]:
            for _ in range(PIECES_WAITING_MAX):
                yield b"line\n"
            is_full.set()
            yield b"one too many\n"

        async def follow(_request: Request) -> Response:
            return StreamingResponse(lines())

        pieces = serve_relayed(Starlette(routes=[Route("/log", follow)]))(PEER, RelayedRequest("GET", "/log", {}))
        assert isinstance(pieces, AsyncGenerator)
        await anext(pieces)
        await asyncio.wait_for(is_full.wait(), 5)
        closing = asyncio.ensure_future(pieces.aclose())
        await asyncio.wait([closing], timeout=5)
        assert closing.done()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(stop_reading())


def test_answers_on_a_kept_connection_do_not_wait_for_an_acknowledgement() -> None:
    """A connection that the API accepts sends small answers at once: otherwise each costs the client 40 ms more."""

    async def accepted() -> int:
        loop = asyncio.get_running_loop()
        seen: asyncio.Future[int] = loop.create_future()

        class Accepting(asyncio.Protocol):
            """Tells how its connection was set up."""

            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                connection = transport.get_extra_info("socket")
                seen.set_result(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

        listener = tcp_listener("127.0.0.1", 0)
        server = await loop.create_server(Accepting, sock=listener)
        _, writer = await asyncio.open_connection(*listener.getsockname())
        try:
            return await asyncio.wait_for(seen, 5)
        finally:
            writer.close()
            server.close()

    assert asyncio.run(accepted()) == 1


ENDED_MS = NOW_MS + MEMBERSHIP_LIFETIME_MS + 86_400_000
"""A day after the operator's grant has ended."""


class Submissions:
    """An agent's door that takes whatever is submitted."""

    def __init__(self) -> None:
        self.taken: list[Signed] = []

    def wall_ms(self) -> int:
        """The grant has ended."""
        return ENDED_MS

    async def submit(self, record: Signed, *_: Any) -> Submitted:
        """Accept it."""
        self.taken.append(record)
        return Submitted(1, True, "")


def submitted(door: Submissions, signer: NativeCrypto, kind: IntentKind, key: str, body: msgspec.Struct) -> int:
    """The status of the answer to a record that operator `op` hands over; raises what refuses it."""
    return answered(door, signer, kind, key, body).status_code


def answered(door: Submissions, signer: NativeCrypto, kind: IntentKind, key: str, body: msgspec.Struct) -> Response:
    """The answer to a record that operator `op` hands over."""
    signed = sign_intent(signer, MESH, kind, key, body, 2, ENDED_MS)
    content = msgspec.msgpack.encode(SubmissionBody(signed))
    headers = sign_request(keys("op"), "POST", "/submissions", content, ENDED_MS, bytes(16))
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": "POST", "path": "/submissions", "query_string": b"", "headers": raw}

    async def receive() -> Any:
        return {"type": "http.request", "body": content, "more_body": False}

    gate = Gate(roster("a", operators=("op",)), keys("a"), door.wall_ms)
    backend = Backend(cast(Any, None), gate, cast(Any, None), cast(AgentDoor, door))
    return asyncio.run(records.submissions(backend, Request(scope, receive)))


def test_beemeshctl_is_told_which_keepers_failed() -> None:
    """In words that it understands: it seals for others in their place."""

    class Refusing(Submissions):
        async def submit(self, record: Signed, *_: Any) -> Submitted:
            return Submitted(1, False, "not all keepers saved their part", keepers=("n3",))

    answer = answered(Refusing(), CA, "grant", operator_key("op"), grant("op"))
    error = error_of(answer.status_code, bytes(answer.body))

    assert isinstance(error, KeepersFailed)
    assert error.keepers == ("n3",)


def test_an_operator_whose_grant_has_ended_can_bring_the_next_one_and_nothing_else() -> None:
    """What the CA signed is its own right: else a mesh whose only operator came too late could never be operated."""
    door, renewed = Submissions(), msgspec.structs.replace(grant("op"), serial=2, not_after_ms=ENDED_MS + 1)

    assert submitted(door, CA, "grant", operator_key("op"), renewed) == 200
    quota = Quota(namespace="n", name="q")
    for signer in (keys("op"), CA):
        with pytest.raises(NotAllowed, match="the grant of operator op has expired") as refused:
            submitted(door, signer, "quota", quota_key("n", "q"), quota)
        assert "beemeshctl bootstrap" in refused.value.hint
    assert len(door.taken) == 1


@pytest.mark.parametrize(
    ("left_days", "severity", "text", "warning"),
    [
        (400, Severity.OK, "the membership is valid for 400 days", ""),
        (59, Severity.WARNING, "the membership expires in 59 days", ""),
        (-3, Severity.ERROR, "the membership expired 3 days ago; in grace", "is in grace"),
        (-91, Severity.ERROR, "the membership expired 91 days ago; shut out of the mesh", "the mesh shuts it out"),
    ],
)
def test_people_are_told_of_a_membership_that_ends(left_days: int, severity: Severity, text: str, warning: str) -> None:
    """By `doctor` on the node itself, and by every node that lists it: in grace, and past it."""
    known = roster("a")
    (member,) = known.members()
    wall_ms = member.not_after_ms - left_days * 86_400_000
    intents: Any = SimpleNamespace(items=lambda prefix="": iter(()))
    nothing: Any = None

    (finding,) = membership_findings(member, wall_ms)
    (shown,) = MeshReader(member.node_id, known, View(member.node_id, known), intents, nothing, nothing).nodes(wall_ms)

    assert (finding.severity, finding.message) == (severity, text)
    assert ("beemeshctl bootstrap" in finding.hint) is (severity is not Severity.OK)
    assert [warning in each for each in shown.warnings] == [True] * bool(warning)


@pytest.mark.parametrize(
    ("left_days", "severity", "text"),
    [
        (400, Severity.OK, "no operator's grant ends soon"),
        (59, Severity.WARNING, "the grant of operator op expires in 59 days"),
        (-3, Severity.WARNING, "the grant of operator op expired 3 days ago"),
    ],
)
def test_doctor_tells_of_a_grant_before_it_ends(left_days: int, severity: Severity, text: str) -> None:
    """As of memberships: there are months left to run bootstrap again, which it says."""
    wall_ms = grant("op").not_after_ms - left_days * 86_400_000

    (finding,) = grant_findings(roster("a", operators=("op",)).grants(), wall_ms)

    assert (finding.severity, finding.message) == (severity, text)
    assert ("beemeshctl bootstrap" in finding.hint) is (severity is not Severity.OK)
