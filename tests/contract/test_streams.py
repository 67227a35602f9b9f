"""Streams between two nodes over real TLS: who is let in, and how a stranger becomes known."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from agent.transport import connection, streams
from agent.transport.connection import WRITE_PATIENCE_S, Connection
from agent.transport.load import FOLLOWED_MAX
from agent.transport.streams import Streams
from agent.transport.tls import TlsIdentity
from beemesh.custody.messages import SEALED_BYTES_MAX, FetchManifest, ManifestAnswer
from beemesh.errors import BeemeshError, Unreachable
from beemesh.identity.certificates import ca_certificate, issuing_certificate
from beemesh.identity.signing import Signed, decode_body, sign_statement
from beemesh.ids import Digest, NodeId
from beemesh.intents.messages import FetchMembers, IntentRecords
from beemesh.intents.record import SIGNED_KIND, Intent, node_key
from beemesh.wire.framing import Frame, FrameDecoder, FrameKind, encode_frame
from beemesh.wire.registry import encode_message
from beemesh.wire.relay import RelayedData, RelayedRequest
from bench.bare_mesh import free_ports
from tests.unit.identity.cast import CA, MESH, card, keys, record, revoke, roster

NOW_MS = time.time_ns() // 1_000_000
DAY_MS = 86_400_000


def shown_card(name: str) -> Signed:
    """A node's card as the CA signed it."""
    return sign_statement(CA, SIGNED_KIND, record("membership", node_key(name), card(name)))


class Side:
    """One node's end: it answers every question with nothing, and takes the cards that strangers show."""

    def __init__(self, name: str, *knows: str, shows: str = "", clock_ms: int = 0) -> None:
        self.holder = keys(name)
        self.node_id = NodeId(self.holder.signer_id)
        self.roster = roster(*knows)
        self.shown: list[Signed] = []
        self.later: list[tuple[NodeId, int]] = []
        ca_pem = ca_certificate(CA, MESH, NOW_MS)
        end_ms = NOW_MS + 400 * DAY_MS
        issuing = issuing_certificate(CA, ca_pem, MESH, "node", name, self.holder.sign_key, NOW_MS, end_ms)
        tls = TlsIdentity(
            mesh=MESH,
            name=name,
            crypto=self.holder,
            ca_pem=ca_pem,
            issuing_pem=issuing,
            roster=self.roster,
            wall_ms=lambda: NOW_MS + clock_ms,
        )
        self.streams = Streams(
            tls,
            self.roster,
            self._asked,
            lambda *_: None,
            card=shown_card(shows or name),
            on_card=self._met,
            on_later=lambda node_id, wall_ms: self.later.append((node_id, wall_ms)),
        )

    def _asked(self, _peer: NodeId, token: int, _message: object, _deadline_s: float) -> None:
        self.streams.reply(token, IntentRecords(()))

    def _met(self, shown: Signed) -> None:
        self.shown.append(shown)
        self.roster.apply(decode_body(shown, Intent))


@contextlib.asynccontextmanager
async def listening(server: Side) -> AsyncIterator[tuple[str, int]]:
    """A node that listens; its address."""
    address = ("127.0.0.1", free_ports(1)[0])
    await server.streams.start(*address)
    try:
        yield address
    finally:
        await server.streams.close()


def asked(server: Side, client: Side) -> object:
    """What the server answers the client."""

    async def run() -> object:
        async with listening(server) as address:
            try:
                return await client.streams.ask(server.node_id, address, FetchMembers(()), 5.0)
            finally:
                await client.streams.close()

    return asyncio.run(run())


def test_members_that_know_each_other_talk() -> None:
    """A question gets its answer, and nobody is introduced."""
    server = Side("n1", "n1", "n2")

    assert isinstance(asked(server, Side("n2", "n1", "n2")), IntentRecords)
    assert server.shown == []


def test_a_stranger_is_let_in_by_its_card() -> None:
    """Whoever the CA certified shows its card first: it is known from then on, and its first question is answered."""
    server = Side("n1", "n1")

    assert isinstance(asked(server, Side("n2", "n1", "n2")), IntentRecords)
    assert server.roster.named("n2") is not None


def test_a_stranger_is_not_let_in_by_the_card_of_another() -> None:
    """A leaf that names n2 must be signed by n2's key; the card of n3 opens nothing."""
    with pytest.raises(Unreachable):
        asked(Side("n1", "n1"), Side("n2", "n1", "n2", shows="n3"))


def test_a_revoked_node_is_no_stranger() -> None:
    """Its card was withdrawn: showing it again changes nothing."""
    server = Side("n1", "n1", "n2")
    revoke(server.roster, "n2", keys("n2"))

    with pytest.raises(Unreachable):
        asked(server, Side("n2", "n1", "n2"))


def test_nodes_whose_clocks_agree_talk_whatever_their_machines_say() -> None:
    """A year ahead of the machine's own clock both sides accept each other: only the nodes' reading counts."""
    year_ms = 365 * DAY_MS

    assert isinstance(
        asked(Side("n1", "n1", "n2", clock_ms=year_ms), Side("n2", "n1", "n2", clock_ms=year_ms)), IntentRecords
    )


def test_a_node_far_in_the_past_learns_of_the_time_by_the_certificates_of_others() -> None:
    """It accepts nobody, but hears when their certificates were issued; they refuse it, and hear nothing."""
    late, early = Side("n1", "n1", "n2"), Side("n2", "n1", "n2", clock_ms=-30 * DAY_MS)

    with pytest.raises(BeemeshError):
        asked(late, early)

    with pytest.raises(Unreachable, match=r"n1 at .* did not show that it is who it is: .*not valid yet"):
        asked(late, early)  # whoever asks many peers takes it for one that does not answer, and says whose fault it is

    ((said_by, said_ms), *_) = early.later
    assert said_by == late.node_id
    assert abs(said_ms - NOW_MS) <= 1_000
    assert late.later == []


def posted(server: Side, client: Side, count: int, deadline_s: float = 5.0) -> list[tuple[object, str]]:
    """What comes of some questions that nobody awaits: the first opens the stream, the others find it open."""

    async def run() -> list[tuple[object, str]]:
        loop = asyncio.get_running_loop()
        answers: list[tuple[object, str]] = []
        async with listening(server) as address:
            for _ in range(count):
                done: asyncio.Future[tuple[object, str]] = loop.create_future()
                client.streams.post(
                    server.node_id,
                    address,
                    FetchMembers(()),
                    deadline_s,
                    lambda *words, to=done: to.set_result(words),  # type: ignore[misc]
                )
                assert not done.done(), "nobody hears of it while the question is being put"
                answers.append(await asyncio.wait_for(done, 10))
            await client.streams.close()
        return answers

    return asyncio.run(run())


def test_questions_that_nobody_awaits_are_answered() -> None:
    """Each is answered once, whether it had to open the stream or not."""
    answers = posted(Side("n1", "n1", "n2"), Side("n2", "n1", "n2"), 3)

    assert [(type(answer), why) for answer, why in answers] == [(IntentRecords, "")] * 3


def test_a_question_that_nobody_awaits_ends_in_time() -> None:
    """A peer that does not answer costs no more than the deadline, on an open stream too."""
    server = Side("n1", "n1", "n2")
    server.streams.on_request = lambda *_: None

    answers = posted(server, Side("n2", "n1", "n2"), 2, deadline_s=0.3)

    assert [answer for answer, _ in answers] == [None, None]
    assert all("did not answer within 0.3 s" in why for _, why in answers)


def test_questions_that_nobody_awaits_end_with_their_stream() -> None:
    """When the peer ends the stream, whoever put a question on it hears so at once."""
    server = Side("n1", "n1", "n2")
    asked = iter(range(9))

    def answer_the_first(_peer: NodeId, token: int, *_: object) -> None:
        if next(asked):
            server.streams.close_peer(NodeId(keys("n2").signer_id))
        else:
            server.streams.reply(token, IntentRecords(()))

    server.streams.on_request = answer_the_first

    answers = posted(server, Side("n2", "n1", "n2"), 2)

    assert "ended before it answered" in answers[1][1]


@pytest.mark.parametrize("host", ["a..b", "a" * 64, "a\0b"])
def test_questions_to_a_host_that_no_resolver_takes_are_answered(host: str) -> None:
    """Whatever address a member says it has: whoever asks it hears that it cannot be reached."""
    server, client = Side("n1", "n1", "n2"), Side("n2", "n1", "n2")

    async def run() -> tuple[object, str]:
        done: asyncio.Future[tuple[object, str]] = asyncio.get_running_loop().create_future()
        client.streams.post(server.node_id, (host, 7946), FetchMembers(()), 5.0, lambda *words: done.set_result(words))
        return await asyncio.wait_for(done, 10)

    answer, why = asyncio.run(run())

    assert answer is None
    assert "cannot reach n1" in why


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="only Linux bounds it")
def test_neither_end_waits_long_for_a_peer_that_acknowledges_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that was in use when the network was cut is given up by the kernels of both ends as soon as by us: else
    it would stay dead long after the network is back."""
    bounds_ms: list[int] = []

    class Watched(Connection):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            end = arguments[2].get_extra_info("socket")
            bounds_ms.append(end.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT))

    monkeypatch.setattr(streams, "Connection", Watched)

    asked(Side("n1", "n1", "n2"), Side("n2", "n1", "n2"))

    assert bounds_ms == [WRITE_PATIENCE_S * 1000] * 2


MANIFEST = Digest(bytes(32))
ANSWERS_HELD_MAX = 4
"""Sealed manifests of the largest size that may be made for a peer that reads nothing: two that wait, and what the
kernels take."""


class Holder(Side):
    """A node that is asked for sealed manifests of the largest size, and counts how often."""

    def __init__(self, *arguments: str) -> None:
        super().__init__(*arguments)
        self.asked = 0
        self._ciphertext = bytes(SEALED_BYTES_MAX)

    def _asked(self, _peer: NodeId, token: int, _message: object, _deadline_s: float) -> None:
        self.asked += 1
        self.streams.reply(token, ManifestAnswer(MANIFEST, self._ciphertext))


async def greedy(
    client: Side, address: tuple[str, int], count: int
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection of the client's on which it has asked for manifests and reads nothing yet."""
    tls, end = client.streams._tls, socket.socket()
    end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)  # else the kernels take a manifest or two
    end.setblocking(False)
    await asyncio.get_running_loop().sock_connect(end, address)
    reader, writer = await asyncio.open_connection(
        sock=end, ssl=tls.client, server_hostname=tls.dns_name("n1"), limit=1
    )
    code, body = encode_message(FetchManifest(MANIFEST))
    asked = [encode_frame(Frame(FrameKind.REQUEST, number, code, 1_000, body)) for number in range(1, count + 1)]
    writer.write(b"".join(asked))
    await writer.drain()
    await asyncio.sleep(0.2)  # the other end does what it will
    return reader, writer


def test_a_peer_that_asks_and_does_not_read_costs_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few kilobytes ask for gigabytes: over all its connections a peer has few answers made for it before it reads.
    Once it reads, each of its questions is answered."""
    monkeypatch.setattr(connection, "WRITE_PATIENCE_S", 60.0)

    async def run() -> None:
        server, client = Holder("n1", "n1", "n2"), Side("n2", "n1", "n2")
        async with listening(server) as address:
            ends = [await greedy(client, address, 8) for _ in range(3)]
            assert server.asked <= ANSWERS_HELD_MAX
            (_, writer), (_, other), (reader, _) = ends
            for each in (writer, other):
                each.transport.abort()
            decoder, answered = FrameDecoder(), 0
            while answered < 8:
                frames = list(decoder.feed(await asyncio.wait_for(reader.read(1 << 20), 10)))
                assert {frame.kind for frame in frames} <= {FrameKind.RESPONSE}
                answered += len(frames)

    asyncio.run(run())


def test_a_peer_that_took_nothing_for_long_is_heard_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is cut off, what waited for it is let go of, and its next connection is served."""
    monkeypatch.setattr(connection, "WRITE_PATIENCE_S", 0.5)

    async def run() -> None:
        server, client = Holder("n1", "n1", "n2"), Side("n2", "n1", "n2")
        async with listening(server) as address:
            await greedy(client, address, 8)
            answer = await client.streams.ask(server.node_id, address, FetchManifest(MANIFEST), 10.0)
            assert isinstance(answer, ManifestAnswer)
            await client.streams.close()

    asyncio.run(run())


class Teller(Side):
    """A node whose logs say a few things at once, and then nothing until `speaks` is set."""

    def __init__(self, *arguments: str, pieces: int = 1) -> None:
        super().__init__(*arguments)
        self.speaks = asyncio.Event()
        self._pieces = pieces
        self.streams.piece_handlers[RelayedRequest] = self._follow

    async def _follow(self, _peer: NodeId, _request: object) -> AsyncIterator[RelayedData]:
        for _ in range(self._pieces):
            yield RelayedData(b"x")
        await self.speaks.wait()
        yield RelayedData(b"last")


def followed(server: Side, client: Side, address: tuple[str, int]) -> AsyncIterator[Any]:
    """A log of the server's that the client follows."""
    return client.streams.pieces(server.node_id, address, RelayedRequest("GET", "/log", {}), 0.0)


def test_a_quiet_log_is_followed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that is followed is no idle one, however long it is silent; one that nobody uses is closed meanwhile."""
    monkeypatch.setattr(streams, "IDLE_S", 0.4)

    async def run() -> None:
        server, client = Teller("n1", "n1", "n2"), Side("n2", "n1", "n2")
        async with listening(server) as address:
            await client.streams.ask(server.node_id, address, FetchMembers(()), 5.0)
            log = followed(server, client, address)
            assert await anext(log) == RelayedData(b"x")
            await asyncio.sleep(1.5)
            assert len(server.streams._incoming) == 1
            server.speaks.set()
            assert [piece async for piece in log] == [RelayedData(b"last")]
            await client.streams.close()

    asyncio.run(run())


def test_an_answer_that_takes_long_keeps_its_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither end takes a stream for unused on which somebody waits for an answer."""
    monkeypatch.setattr(streams, "IDLE_S", 0.4)
    tokens: list[int] = []

    async def run() -> None:
        server, client = Side("n1", "n1", "n2"), Side("n2", "n1", "n2")
        server.streams.on_request = lambda *words: tokens.append(words[1])
        async with listening(server) as address:
            asked = asyncio.create_task(client.streams.ask(server.node_id, address, FetchMembers(()), 8.0))
            await asyncio.sleep(1.5)
            server.streams.reply(tokens[0], IntentRecords(()))
            assert await asked == IntentRecords(())
            await client.streams.close()

    asyncio.run(run())


@pytest.mark.parametrize("reads_on", [True, False])
def test_who_reads_slowly_hears_the_end_too(reads_on: bool) -> None:
    """A follower that is behind when its stream breaks is told so, and one that goes away leaves nothing behind."""

    async def run() -> None:
        server, client = Teller("n1", "n1", "n2", pieces=10_000), Side("n2", "n1", "n2")
        async with listening(server) as address:
            log = followed(server, client, address)
            await anext(log)
            await asyncio.sleep(0.3)  # the queue is full, and the connection waits for room in it
            if reads_on:
                client.streams.close_peer(server.node_id)
                server.streams.close_peer(client.node_id)
                for task in asyncio.all_tasks():
                    frame = getattr(task.get_coro(), "cr_frame", None)
                    if isinstance(end := frame and frame.f_locals.get("self"), Connection):
                        end.close()
                with pytest.raises(Unreachable, match="ended before"):
                    async with asyncio.timeout(5):
                        async for _ in log:
                            pass
            await log.aclose()  # type: ignore[attr-defined]
            async with asyncio.timeout(5):
                while client.streams._tasks:
                    await asyncio.sleep(0.01)

    asyncio.run(run())


def test_followed_logs_leave_a_place_for_everything_else() -> None:
    """However many logs are followed through one agent, it can ask; past its share it is told, and gets places back."""

    async def run() -> None:
        server, client = Teller("n1", "n1", "n2"), Side("n2", "n1", "n2")
        async with listening(server) as address:
            logs = [followed(server, client, address) for _ in range(FOLLOWED_MAX)]
            for log in logs:
                await anext(log)
            assert await client.streams.ask(server.node_id, address, FetchMembers(()), 5.0) == IntentRecords(())
            with pytest.raises(Unreachable, match="no more than 16 logs"):
                await anext(followed(server, client, address))
            await logs.pop().aclose()  # type: ignore[attr-defined]
            async with asyncio.timeout(5):
                while server.streams.load(client.node_id).followed == FOLLOWED_MAX:
                    await asyncio.sleep(0.01)
            assert await anext(followed(server, client, address)) == RelayedData(b"x")
            await client.streams.close()

    asyncio.run(run())


def test_a_followed_log_ends_when_its_node_is_shut_out() -> None:
    """The stream was opened for it alone; the other end could ask over it whatever a member may."""

    async def run() -> None:
        server, client = Teller("n1", "n1", "n2"), Side("n2", "n1", "n2")
        async with listening(server) as address:
            pieces = followed(server, client, address)
            await asyncio.wait_for(anext(pieces), 10)
            revoke(client.roster, "n1", keys("n1"))
            client.streams.close_strangers()
            with pytest.raises(Unreachable):
                await asyncio.wait_for(anext(pieces), 10)
            await client.streams.close()

    asyncio.run(run())
