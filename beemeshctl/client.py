"""Talking to the mesh: any agent will do. TLS with our own certificate, and a signature on every request."""

from __future__ import annotations

import base64
import json
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import msgspec

from beemesh.errors import (
    BeemeshError,
    Conflict,
    InvalidInput,
    KeepersFailed,
    NotAllowed,
    NotFound,
    Problem,
    Unavailable,
    Unreachable,
    Untrusted,
)
from beemesh.identity import certificates
from beemesh.identity.requests import NONCE_BYTES, sign_request
from beemesh.identity.signing import Signed
from beemesh.membership.roster import Roster
from beemesh.undecodable import UNDECODABLE
from beemeshctl.clock import wall_ms
from beemeshctl.context import AgentEntry, Home, find_home

if TYPE_CHECKING:
    import ssl

    import urllib3

CONNECT_PATIENCE_S = 2.0
ANSWER_PATIENCE_S = 20.0
ANSWER_BYTES_MAX = 64 * 1024 * 1024
"""An answer: thousands of pods, or a manifest of 4 MiB with its shares, fit many times over."""
LINE_BYTES_MAX = 1024 * 1024
"""A longer line of a log or watch comes in pieces."""
WATCHED_MAX = 20_000
"""Objects that a watch remembers, so as to tell after a reconnection only what is new."""
REOPEN_PAUSE_S = 0.5

BEEMESH = "/apis/beemesh.io/v1alpha1"
ERRORS: dict[int, type[BeemeshError]] = {
    400: InvalidInput,
    401: NotAllowed,
    403: NotAllowed,
    404: NotFound,
    409: Conflict,
    413: InvalidInput,
    422: InvalidInput,
    429: Unavailable,
    502: Unreachable,
    503: Unavailable,
    504: Unreachable,
}
ELSEWHERE = (502, 503, 504)
"""Answers that another agent may better."""


@dataclass(frozen=True, slots=True)
class _Answer:
    """A status with the whole body, or, of a good answer that is streamed, none yet."""

    status: int
    body: bytes
    response: Any


class Client:
    """One operator's way into one mesh. Tries the agents in order and stays with the first that answers.

    May be shared by threads.
    """

    def __init__(self, home: Home | None = None, *, via: str = "") -> None:
        """`via` names the one agent to use."""
        self.home = home or find_home()
        self.context = self.home.context()
        self.mesh = self.context.mesh
        self.operator = self.home.operator()
        agents = [self.context.agent(via)] if via else list(self.context.agents)
        if not agents:
            raise InvalidInput(f"{self.home.path} knows no agents", hint="run `beemeshctl bootstrap INVENTORY`")
        self._agents = agents
        self._pools: dict[str, urllib3.HTTPSConnectionPool] = {}
        self._tls: tuple[ssl.SSLContext, Roster] | None = None
        self._lock = threading.Lock()

    # --- requests -------------------------------------------------------------------------------------------------

    def get(self, path: str, **query: Any) -> Any:
        """The decoded JSON at a path; raises the error that the agent's answer stands for."""
        raw = self.request("GET", path, query)
        try:
            return json.loads(raw)
        except (ValueError, RecursionError):
            raise BeemeshError(
                f"the agent's answer to {path} is no JSON", hint="are beemeshctl and the agents of one version?"
            ) from None

    def post(self, path: str, body: msgspec.Struct | dict[str, Any], **query: Any) -> bytes:
        """Send msgpack; the answer's raw body."""
        return self.request("POST", path, query, msgspec.msgpack.encode(body))

    def request(self, method: str, path: str, query: dict[str, Any], body: bytes = b"") -> bytes:
        """One request to whichever agent answers first; the body of a good answer."""
        return self._send(method, path, query, body, stream=False)[1].body

    def lines(self, path: str, **query: Any) -> Iterator[bytes]:
        """The lines of an answer that comes bit by bit (logs, watches), until it ends. Raises `Unreachable` when the
        connection breaks off."""
        import urllib3

        agent, answer = self._send("GET", path, query, b"", stream=True)
        response, buffer = answer.response, b""
        try:
            for part in response.stream(65_536, decode_content=False):
                *complete, buffer = (buffer + part).split(b"\n")
                for line in complete:
                    yield line + b"\n"
                if len(buffer) > LINE_BYTES_MAX:
                    yield buffer
                    buffer = b""
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise Unreachable(
                f"the connection to {_named(agent)} broke off: {_reason(error)}", hint="run it again"
            ) from None
        finally:
            response.close()
        if buffer:
            yield buffer

    def watch(self, path: str, **query: Any) -> Iterator[dict[str, Any]]:
        """Changes {type, object} of a list without end. When the agent goes away another one is asked, and only what
        differs from what was told is told again; what vanished in between is not."""
        told: OrderedDict[tuple[str, str], int] = OrderedDict()
        while True:
            try:
                for line in self.lines(path, watch=True, **query):
                    change = fresh_change(line, told)
                    if change is not None:
                        yield change
            except Unreachable:
                if not told:
                    raise
            time.sleep(REOPEN_PAUSE_S)

    def _send(
        self, method: str, path: str, query: dict[str, Any], body: bytes, *, stream: bool
    ) -> tuple[AgentEntry, _Answer]:
        """The first good answer; raises `Unreachable` with each agent's reason, or the error that was answered."""
        target = _target(path, query)
        failures: list[str] = []
        refusal: BeemeshError | None = None
        for agent in tuple(self._agents):
            try:
                answer = self._ask(agent, method, target, body, stream=stream)
                if answer.status < 400:
                    self._prefer(agent)
                    return agent, answer
                refusal = error_of(answer.status, answer.body)
                if answer.status not in ELSEWHERE or method != "GET":
                    raise refusal
                failures.append(f"{_named(agent)}: {refusal.message}")
            except _transport_errors() as error:
                failures.append(f"{_named(agent)}: {_reason(error)}")
                if method != "GET" and not _never_sent(error):
                    raise Unreachable(
                        f"{failures[-1]}, after the request was sent: whether it was done is not known",
                        hint="run the same command again: it does nothing twice",
                    ) from None
        if refusal is not None:
            raise refusal
        raise Unreachable(
            "no agent answers:\n  " + "\n  ".join(failures),
            hint="are the machines up, and their agents? `beemeshctl bootstrap` says what is wrong with each",
        )

    def _ask(self, agent: AgentEntry, method: str, target: str, body: bytes, *, stream: bool) -> _Answer:
        import urllib3

        now_ms = wall_ms()
        headers = sign_request(self.operator, method, target, body, now_ms, secrets.token_bytes(NONCE_BYTES))
        patience = urllib3.Timeout(connect=CONNECT_PATIENCE_S, read=None if stream else ANSWER_PATIENCE_S)
        response: Any = self._pool(agent).urlopen(
            method, target, body=body or None, headers=headers, timeout=patience, retries=False, preload_content=False
        )
        if stream and response.status < 400:
            return _Answer(response.status, b"", response)
        content = bytes(response.read(ANSWER_BYTES_MAX + 1))
        if len(content) > ANSWER_BYTES_MAX:
            response.close()
            raise BeemeshError(
                f"the answer of {_named(agent)} is larger than {ANSWER_BYTES_MAX} bytes", hint="ask for less"
            )
        response.release_conn()
        return _Answer(response.status, content, response)

    def _prefer(self, agent: AgentEntry) -> None:
        with self._lock:
            if self._agents[0] is not agent:
                self._agents = [agent, *(other for other in self._agents if other is not agent)]

    def _pool(self, agent: AgentEntry) -> urllib3.HTTPSConnectionPool:
        from beemeshctl.client_tls import agent_pool, known_roster, operator_context

        with self._lock:
            if self._tls is None:
                tls = operator_context(self.home, self.mesh, self.context.operator, self.operator)
                self._tls = (tls, known_roster(self.home, self.mesh, self.operator))
            if agent.name not in self._pools:
                self._pools[agent.name] = agent_pool(agent, self.mesh, *self._tls)
            return self._pools[agent.name]

    # --- what several commands need -------------------------------------------------------------------------------

    def roster(self) -> tuple[Roster, dict[bytes, str]]:
        """(the memberships, verified against our own copy of the CA; each node's state as the agent sees it)."""
        from beemesh.intents.entitlement import verify_intent

        roster = Roster(self.mesh, certificates.ca_public_key(self.home.ca_pem()))
        states: dict[str, str] = {}
        for item in items_of(self.get(f"{BEEMESH}/roster")):
            intent = verify_intent(self.operator, roster, signed_of(item))
            roster.apply(intent)
            states[intent.key] = str(item.get("status", ""))
        return roster, {bytes(member.node_id): states.get(f"node/{member.name}", "") for member in roster.members()}

    def records(self, **query: Any) -> dict[str, Signed]:
        """Signed records by key."""
        items = items_of(self.get(f"{BEEMESH}/intents", **query))
        return {str(item.get("key", "")): signed_of(item) for item in items}

    def close(self) -> None:
        """Close every connection."""
        for pool in self._pools.values():
            pool.close()


def items_of(answer: Any) -> list[dict[str, Any]]:
    """The entries of a list that an agent answered with; raises `BeemeshError` when it is none."""
    items = answer.get("items") if isinstance(answer, dict) else None
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise _odd_answer("with a list")
    return items


def signed_of(item: dict[str, Any]) -> Signed:
    """The signed record of an entry; raises `Untrusted` when it is none."""
    try:
        return msgspec.msgpack.decode(base64.b64decode(item["record"]), type=Signed)
    except (KeyError, TypeError, ValueError, *UNDECODABLE):
        raise Untrusted("an agent handed out a record that does not decode") from None


def error_of(status: int, body: bytes) -> BeemeshError:
    """The error that an agent's answer stands for: a Kubernetes `Status`, or whatever else came."""
    try:
        content = json.loads(body)
        message, details = str(content["message"]), content.get("details")
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        message, details = f"the agent answered {status} without a reason", None
    known = details if isinstance(details, dict) else {}
    hint = str(known.get("hint", ""))
    kind = ERRORS.get(status, BeemeshError)
    if kind is InvalidInput:
        named = known.get("keepers")
        keepers = tuple(each for each in named if isinstance(each, str)) if isinstance(named, list) else ()
        if keepers:
            return KeepersFailed(message, keepers, hint=hint)
        listed = known.get("causes")
        causes = listed if isinstance(listed, list) else []
        told = [str(each.get("message", "")) for each in causes if isinstance(each, dict)]
        return InvalidInput(message, hint=hint, problems=tuple(Problem(cause) for cause in told))
    return kind(message, hint=hint)


def _target(path: str, query: dict[str, Any]) -> str:
    """Path and query as they are sent and signed; empty values are left out."""
    kept = {name: _text(value) for name, value in query.items() if value is not False and value not in (None, "")}
    return f"{path}?{urlencode(kept)}" if kept else path


def _text(value: Any) -> str:
    return "true" if value is True else str(value)


def fresh_change(line: bytes, told: OrderedDict[tuple[str, str], int]) -> dict[str, Any] | None:
    """The change in a line of a watch, unless it says what was told already; remembers it. Raises `BeemeshError` when
    the line is no change, and for the error that an agent put there."""
    try:
        return _fresh(json.loads(line), told)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        raise _odd_answer("to a watch") from None


def _odd_answer(what: str) -> BeemeshError:
    return BeemeshError(
        f"an agent's answer {what} has an unknown shape", hint="are beemeshctl and the agents of one version?"
    )


def _fresh(change: dict[str, Any], told: OrderedDict[tuple[str, str], int]) -> dict[str, Any] | None:
    if change["type"] == "ERROR":
        raise error_of(int(change["object"].get("code", 500)), json.dumps(change["object"]).encode())
    metadata = change["object"]["metadata"]
    key = (metadata.get("namespace", ""), metadata["name"])
    if change["type"] == "DELETED":
        told.pop(key, None)
        return change
    content = hash(json.dumps(change["object"], sort_keys=True))
    before = told.get(key)
    if before == content:
        return None
    told[key] = content
    told.move_to_end(key)
    if len(told) > WATCHED_MAX:
        told.popitem(last=False)
    return {**change, "type": "ADDED" if before is None else "MODIFIED"}


def _transport_errors() -> tuple[type[Exception], ...]:
    import urllib3

    return (urllib3.exceptions.HTTPError, OSError, Untrusted)


def _never_sent(error: Exception) -> bool:
    """Whether an error came before the request was on its way, so that another agent may be asked to do it."""
    import urllib3

    kinds = urllib3.exceptions
    return isinstance(error, (kinds.NewConnectionError, kinds.ConnectTimeoutError, kinds.SSLError, Untrusted))


def _named(agent: AgentEntry) -> str:
    return f"{agent.name} ({agent.address}:{agent.api_port})"


def _reason(error: Exception) -> str:
    """Why an agent could not be talked to, in a few words of a person's."""
    import urllib3

    if isinstance(error, Untrusted):
        return f"not trusted: {error.message}"
    if isinstance(error, urllib3.exceptions.TimeoutError) and not isinstance(
        error, urllib3.exceptions.NewConnectionError
    ):
        return "no answer in time"
    cause = error
    while isinstance(cause.__cause__, Exception):
        cause = cause.__cause__
    if isinstance(cause, OSError) and not hasattr(cause, "verify_message") and cause.strerror:
        return cause.strerror.lower() if cause.errno and cause.errno > 0 else cause.strerror
    if hasattr(cause, "verify_message"):
        return f"its certificate is not good: {cause.verify_message}"
    text = str(getattr(error, "reason", None) or error)
    return text.rpartition(": ")[2] or type(error).__name__
