"""Talking to the mesh: any agent will do. TLS with our own certificate, and a signature on every request."""

from __future__ import annotations

import base64
import json
import os
import secrets
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import msgspec

from beemesh.errors import (
    BeemeshError,
    Conflict,
    InvalidInput,
    NotAllowed,
    NotFound,
    Problem,
    Unavailable,
    Unreachable,
)
from beemesh.identity import certificates
from beemesh.identity.requests import NONCE_BYTES, sign_request
from beemesh.identity.signing import Signed
from beemesh.membership.roster import Roster
from beemeshctl.context import AgentEntry, Home, find_home

if TYPE_CHECKING:
    import ssl

    import urllib3

CONNECT_PATIENCE_S = 2.0
ANSWER_PATIENCE_S = 20.0
LEAF_LIFETIME_MS = 3_600_000
"""An hour: the certificate of one command, or of one long watch's beginning."""

BEEMESH = "/apis/beemesh.io/v1alpha1"
ERRORS: dict[int, type[BeemeshError]] = {
    401: NotAllowed,
    403: NotAllowed,
    404: NotFound,
    409: Conflict,
    422: InvalidInput,
    503: Unavailable,
    504: Unreachable,
}


class Client:
    """One operator's way into one mesh. Tries the agents in order and stays with the first that answers."""

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
        self._ssl: ssl.SSLContext | None = None

    # --- requests -------------------------------------------------------------------------------------------------

    def get(self, path: str, **query: Any) -> Any:
        """The decoded JSON at a path; raises the error that the agent's answer stands for."""
        return json.loads(self.request("GET", path, query))

    def get_text(self, path: str, **query: Any) -> str:
        """The text at a path."""
        return self.request("GET", path, query).decode("utf-8", "replace")

    def post(self, path: str, body: msgspec.Struct | dict[str, Any], **query: Any) -> bytes:
        """Send msgpack; the answer's raw body."""
        return self.request("POST", path, query, msgspec.msgpack.encode(body))

    def request(self, method: str, path: str, query: dict[str, Any], body: bytes = b"") -> bytes:
        """One request to whichever agent answers first."""
        response = self._send(method, path, query, body, stream=False)
        data = bytes(response.data)
        if response.status >= 400:
            raise error_of(response.status, data)
        return data

    def lines(self, path: str, **query: Any) -> Iterator[bytes]:
        """The lines of an answer that comes bit by bit (logs, watches), until it ends."""
        response = self._send("GET", path, query, b"", stream=True)
        if response.status >= 400:
            raise error_of(response.status, bytes(response.read()))
        buffer = b""
        try:
            for part in response.stream(65_536, decode_content=False):
                *complete, buffer = (buffer + part).split(b"\n")
                for line in complete:
                    yield line + b"\n"
            if buffer:
                yield buffer
        finally:
            response.close()

    def _send(self, method: str, path: str, query: dict[str, Any], body: bytes, *, stream: bool) -> Any:
        import urllib3

        kept = {name: value for name, value in query.items() if value not in (None, "", False)}
        target = f"{path}?{urlencode({name: _text(value) for name, value in kept.items()})}" if kept else path
        failures = []
        for agent in list(self._agents):
            headers = sign_request(
                self.operator, method, target, body, time.time_ns() // 1_000_000, secrets.token_bytes(NONCE_BYTES)
            )
            patience = urllib3.Timeout(connect=CONNECT_PATIENCE_S, read=None if stream else ANSWER_PATIENCE_S)
            try:
                answer = self._pool(agent).urlopen(
                    method,
                    target,
                    body=body or None,
                    headers=headers,
                    timeout=patience,
                    retries=False,
                    preload_content=not stream,
                )
            except (urllib3.exceptions.HTTPError, OSError) as error:
                failures.append(f"{agent.name} ({agent.address}:{agent.api_port}): {_reason(error)}")
                if isinstance(error, urllib3.exceptions.ReadTimeoutError) and method != "GET":
                    break  # it may have been done: asking another agent could do it twice
                continue
            self._agents.remove(agent)
            self._agents.insert(0, agent)
            return answer
        raise Unreachable(
            "no agent answers:\n  " + "\n  ".join(failures),
            hint="are the machines up? `beemeshctl bootstrap` says what is wrong with each",
        )

    def _pool(self, agent: AgentEntry) -> urllib3.HTTPSConnectionPool:
        import urllib3

        pool = self._pools.get(agent.name)
        if pool is None:
            name = certificates.dns_name(self.mesh, "node", agent.name)
            pool = self._pools[agent.name] = urllib3.HTTPSConnectionPool(
                agent.address,
                agent.api_port,
                ssl_context=self._context(),
                server_hostname=name,
                assert_hostname=name,
                maxsize=4,
            )
        return pool

    def _context(self) -> ssl.SSLContext:
        import ssl

        if self._ssl is None:
            now_ms = time.time_ns() // 1_000_000
            leaf = certificates.issue_leaf(
                self.operator,
                self.mesh,
                "operator",
                self.context.operator,
                self.home.operator_pem(),
                now_ms,
                LEAF_LIFETIME_MS,
            )
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            context.load_verify_locations(cadata=self.home.ca_pem().decode("ascii"))
            descriptor = os.memfd_create("leaf", os.MFD_CLOEXEC)  # the key never has a name on a disk
            try:
                os.write(descriptor, leaf.private_key_pem.reveal() + leaf.chain_pem)
                context.load_cert_chain(f"/proc/self/fd/{descriptor}")
            finally:
                os.close(descriptor)
            self._ssl = context
        return self._ssl

    # --- what several commands need -------------------------------------------------------------------------------

    def roster(self) -> tuple[Roster, dict[bytes, str]]:
        """(the memberships, verified against our own copy of the CA; each node's state as the agent sees it)."""
        from beemesh.intents.entitlement import verify_intent

        answer = self.get(f"{BEEMESH}/roster")
        roster = Roster(self.mesh, certificates.ca_public_key(self.home.ca_pem()))
        states: dict[bytes, str] = {}
        for item in answer["items"]:
            signed = msgspec.msgpack.decode(base64.b64decode(item["record"]), type=Signed)
            intent = verify_intent(self.operator, roster, signed)
            roster.apply(intent)
            states[intent.key.encode()] = item["status"]
        by_id = {
            bytes(member.node_id): states.get(f"node/{member.name}".encode(), "unknown") for member in roster.members()
        }
        return roster, by_id

    def records(self, **query: Any) -> dict[str, Signed]:
        """Signed records by key."""
        answer = self.get(f"{BEEMESH}/intents", **query)
        return {
            item["key"]: msgspec.msgpack.decode(base64.b64decode(item["record"]), type=Signed)
            for item in answer["items"]
        }

    def close(self) -> None:
        """Close every connection."""
        for pool in self._pools.values():
            pool.close()


def error_of(status: int, body: bytes) -> BeemeshError:
    """The error that an agent's answer stands for."""
    try:
        content = json.loads(body)
        message, details = str(content["message"]), content.get("details") or {}
    except (ValueError, KeyError, TypeError):
        message, details = f"the agent answered {status} without a reason", {}
    hint = str(details.get("hint", ""))
    kind = ERRORS.get(status, BeemeshError)
    if kind is InvalidInput:
        problems = tuple(Problem(str(cause.get("message", ""))) for cause in details.get("causes", ()))
        return InvalidInput(message, hint=hint, problems=problems)
    return kind(message, hint=hint)


def _text(value: Any) -> str:
    return "true" if value is True else str(value)


def _reason(error: Exception) -> str:
    text = str(getattr(error, "reason", None) or error)
    return text.rpartition(": ")[2] or type(error).__name__
