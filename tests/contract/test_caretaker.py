"""What probes get as answers from real sockets, and what an agent does about its containers by them."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from agent.asking import Asker
from agent.caretaker import LABEL_CARE, Caretaker
from agent.runtime.contract import PodSpec, PodStatus
from agent.runtime.mock import MockRuntime
from beemesh.events import Observed
from beemesh.workloads.care import Action, ContainerCare, Exec, HttpGet, PodCare, ProbeSpec, Sleep, TcpSocket

pytestmark = pytest.mark.asyncio

HOST = "127.0.0.1"
DEADLINE_S = 10.0


class Server:
    """An HTTP server that answers as it is told, and remembers what it was asked."""

    def __init__(self) -> None:
        self.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
        self.asked: list[bytes] = []
        self.port = 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request."""
        self.asked.append(await reader.readuntil(b"\r\n\r\n"))
        answer = self.answer
        if b"GET /moved " in self.asked[-1]:
            answer = b"HTTP/1.1 302 Found\r\nLocation: /after?a=1\r\n\r\n"
        if answer:
            writer.write(answer)
            await writer.drain()
            writer.close()


@asynccontextmanager
async def serving(tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    """A server on a free port of this machine."""
    made = Server()
    server = await asyncio.start_server(made.handle, HOST, 0, ssl=tls)
    made.port = server.sockets[0].getsockname()[1]
    yield made
    server.close()


async def pod(runtime: MockRuntime, care: PodCare, pod_id: str = "p") -> PodStatus:
    """A running pod of one container that this care is for."""
    spec = {"spec": {"containers": [{"name": "main", "image": "a:1"}]}}
    return await runtime.deploy(PodSpec(pod_id, {LABEL_CARE: care.encode()}, spec))


async def asked(action: Action, timeout_s: float = 1.0) -> str:
    """What comes of an action: empty when it is good, else why not."""
    runtime = MockRuntime()
    status = await pod(runtime, PodCare())
    answer = await Asker(runtime, HOST).ask(status, "main", action, timeout_s)
    assert answer.ok is (not answer.why)
    return answer.why


async def test_http_probes_send_what_they_are_told_and_judge_by_status() -> None:
    """Path and headers arrive, with a Host of our own unless one is given; 2xx is good, 4xx and 5xx are not."""
    async with serving() as server:
        assert await asked(HttpGet(server.port, "/a?b=1", headers=(("X-Key", "v w"),))) == ""
        assert server.asked[-1].startswith(b"GET /a?b=1 HTTP/1.1\r\nX-Key: v w\r\nHost: 127.0.0.1:")
        assert await asked(HttpGet(server.port, headers=(("host", "web"),))) == ""
        assert server.asked[-1].lower().count(b"host:") == 1
        for status, why in ((399, ""), (400, "HTTP status 400"), (503, "HTTP status 503"), (100, "HTTP status 100")):
            server.answer = b"HTTP/1.1 %d Whatever\r\n\r\n" % status
            assert await asked(HttpGet(server.port)) == why


async def test_redirects_are_followed_on_the_same_host_only() -> None:
    """A redirect here is followed to its end; one elsewhere is good by itself; an endless row of them is not."""
    async with serving() as server:
        assert await asked(HttpGet(server.port, "/moved")) == ""
        assert server.asked[-1].startswith(b"GET /after?a=1 ")
        server.answer = b"HTTP/1.1 307 Elsewhere\r\nLocation: http://192.0.2.1/\r\n\r\n"
        assert await asked(HttpGet(server.port)) == ""
        server.answer = b"HTTP/1.1 307 Again\r\nLocation: /again\r\n\r\n"
        assert await asked(HttpGet(server.port)) == "more than 10 redirects"


async def test_failures_are_told_without_what_was_asked() -> None:
    """Silence, a closed port, an early end and another protocol are bad, each with words of its own."""
    async with serving() as server:
        server.answer = b""
        assert await asked(HttpGet(server.port, "/hush"), 0.2) == "no answer within 0.2 s"
        server.answer = b"SSH-2.0-x\r\n\r\n"
        assert await asked(HttpGet(server.port, "/hush")) == "the answer is no HTTP"
        server.answer = b"HTTP/1.1 200"
        assert await asked(HttpGet(server.port, "/hush")) == "the connection ended before the answer"
        assert await asked(TcpSocket(server.port)) == ""
        port = server.port
    assert await asked(TcpSocket(port)) == "connection refused"
    assert await asked(HttpGet(port)) == "connection refused"


async def test_https_is_asked_without_looking_at_the_certificate(tmp_path: Path) -> None:
    """A server with a certificate of its own making is good; one without TLS is not."""
    async with serving(_own_tls(tmp_path)) as server:
        assert await asked(HttpGet(server.port, scheme="HTTPS")) == ""
    async with serving() as server:
        server.answer = b"HTTP/1.1 400 no TLS\r\n\r\n"
        assert await asked(HttpGet(server.port, scheme="HTTPS"), 0.5) != ""


def _own_tls(folder: Path) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "own")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + timedelta(days=1))
    (folder / "c.pem").write_bytes(
        builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "c.pem")
    return context


class Cared:
    """A caretaker over a mock runtime, with what it told."""

    def __init__(self, runtime: MockRuntime) -> None:
        self.runtime = runtime
        self.counted: list[Observed] = []
        self.changes = 0
        self.caretaker = Caretaker(runtime, HOST, lambda: 0.0, self._change, self.counted.append)

    def _change(self) -> None:
        self.changes += 1

    async def follow(self) -> None:
        """Let the caretaker see what runs."""
        self.caretaker.follow({each.pod_id: each for each in await self.runtime.list()})

    async def until(self, wanted: Callable[[], bool]) -> None:
        """Wait, with a bound."""
        async with asyncio.timeout(DEADLINE_S):
            while not wanted():
                await asyncio.sleep(0.02)


def care(*probes: ProbeSpec, **changes: object) -> PodCare:
    """The care of a pod of one container."""
    return PodCare({"main": ContainerCare(probes, **changes)})  # type: ignore[arg-type]


async def test_readiness_follows_the_server_and_ends_with_the_pods_leave() -> None:
    """Ready while the server says so, unready with the reason when it does not, and unready at once on `leave`."""
    async with serving() as server:
        made = Cared(MockRuntime())
        probe = ProbeSpec("readiness", HttpGet(server.port), period_s=1, failure_threshold=1)
        await pod(made.runtime, care(probe, ports=(80,)))
        await made.follow()
        assert not made.caretaker.is_ready("p", "main")
        assert made.caretaker.covers("p", 80)
        await made.until(lambda: made.caretaker.is_ready("p", "main"))
        server.answer = b"HTTP/1.1 503 busy\r\n\r\n"
        await made.until(lambda: not made.caretaker.is_ready("p", "main"))
        assert made.caretaker.why("p", "main") == "readiness probe failed: HTTP status 503"
        server.answer = b"HTTP/1.1 200 fine\r\n\r\n"
        await made.until(lambda: made.caretaker.is_ready("p", "main"))
        assert made.changes == 3
        assert {each.labels["result"] for each in made.counted} == {"ok", "failed"}
        made.caretaker.leave("p")
        assert not made.caretaker.is_ready("p", "main")
        await pod(made.runtime, care(probe), "after")
        await made.follow()
        await made.until(lambda: made.caretaker.is_ready("after", "main"))
        assert not made.caretaker.is_ready("p", "main"), "a look at what runs does not bring it back"
        made.caretaker.close()


async def test_a_container_whose_liveness_fails_is_restarted_and_looked_at_afresh() -> None:
    """The engine is told to end it once, and the next run is asked again from the start."""
    made = Cared(MockRuntime())
    probe = ProbeSpec("liveness", TcpSocket(1), period_s=1, failure_threshold=1)
    await pod(made.runtime, care(probe))
    await made.follow()
    assert made.caretaker.is_ready("p", "main"), "alive until shown otherwise"

    def restarts() -> int:
        return made.runtime.host.pods["p"].status.containers[0].restarts

    await made.until(lambda: restarts() == 1)
    assert not made.caretaker.is_ready("p", "main")
    await made.follow()
    assert "liveness probe failed" in made.caretaker.why("p", "main"), "the next run says why the last one was ended"
    await made.until(lambda: restarts() == 2)
    assert [each for each in made.counted if each.metric == "probe_restarts_total"]
    made.caretaker.close()


async def test_hooks_run_before_the_end_and_leave_the_rest_of_the_grace() -> None:
    """A pause and a command take their time from the grace, of which at least two seconds are left."""
    made = Cared(MockRuntime())
    await pod(made.runtime, care(pre_stop=Exec(("true",))))
    await pod(made.runtime, care(pre_stop=Sleep(9)), "q")
    await made.follow()
    assert 4.0 < await made.caretaker.before_stop("p", 5.0) <= 5.0
    assert await made.caretaker.before_stop("q", 0.3) == 2.0
    assert await made.caretaker.before_stop("unknown", 7.0) == 7.0
    assert [each.labels["result"] for each in made.counted] == ["ok", "ok"]
