"""What an operator may follow, and for how long: only as far as its grant reaches, and only while it stands."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import msgspec
import pytest
from starlette.requests import Request
from starlette.responses import StreamingResponse

from agent.api import auth, collection, itself, records
from agent.api.auth import Gate
from agent.api.live import LiveReplicas
from agent.api.resources import Resource
from agent.api.seam import Backend, ReadingBody
from beemesh.custody.messages import ReleaseRequest
from beemesh.errors import NotAllowed, NotFound
from beemesh.identity.grants import Revocation
from beemesh.identity.requests import sign_request
from beemesh.ids import Digest
from beemesh.intents.record import operator_key, revoked_key
from beemesh.workloads.kubeshape import PodView
from tests.unit.identity.cast import NOW_MS, grant, keys, record, roster

DAY_MS = 86_400_000


class Agent:
    """An agent whose operators are `op`, and `guest`, who may read `mine` alone."""

    def __init__(self) -> None:
        self.wall_ms = NOW_MS
        self.roster = roster("a", operators=("op",))
        self.give("guest", namespaces=("mine",), role="viewer")
        self.gate = Gate(self.roster, keys("a"), lambda: self.wall_ms)
        self.live = LiveReplicas(list, cast(Any, None))
        self.items = [self.item("first")]
        self.door = self.mesh = self.relay = self
        self.name = "a"
        self._nonce = 0

    @staticmethod
    def item(name: str, namespace: str = "mine") -> dict[str, Any]:
        """An object of the kind that is watched."""
        return {"kind": "Pod", "metadata": {"name": name, "namespace": namespace}}

    def give(self, name: str, **fields: Any) -> None:
        """Grant something, in the place of what was granted before."""
        self.roster.apply(record("grant", operator_key(name), msgspec.structs.replace(grant(name), **fields)))

    def revoke(self, name: str) -> None:
        """Withdraw an operator."""
        who = keys(name).signer_id
        body = Revocation(
            mesh=self.roster.mesh, subject="operator", subject_id=who, name=name, revoked_at_ms=self.wall_ms
        )
        self.roster.apply(record("revocation", revoked_key("operator", who), body))

    def backend(self) -> Backend:
        """What handlers are given."""
        itself: Any = self
        return Backend(itself, self.gate, itself, itself)

    def request(self, who: str, target: str, body: bytes = b"", **params: str) -> Request:
        """A request that an operator signed."""
        self._nonce += 1
        method = "POST" if body else "GET"
        signed = sign_request(keys(who), method, target, body, self.wall_ms, self._nonce.to_bytes(16, "big"))
        path, _, query = target.partition("?")

        async def receive() -> Any:
            return {"type": "http.request", "body": body, "more_body": False}

        headers = [(name.encode(), value.encode()) for name, value in signed.items()]
        scope = {"type": "http", "method": method, "path": path, "query_string": query.encode(), "headers": headers}
        return Request({**scope, "path_params": params, "server": ("a", 1), "scheme": "https"}, receive)

    # --- what handlers ask of the mesh, the door and the relay ----------------------------------------------------

    def following(self) -> Agent:
        """Itself."""
        return self

    async def pods(self, namespace: str) -> list[PodView]:
        """One here and one elsewhere."""
        return [PodView(name, namespace, "w", "Deployment", "w", node=name) for name in ("a", "b")]

    def logs(self, *_words: Any) -> AsyncIterator[bytes]:
        """A container that says one thing and then nothing."""
        return self._said()

    async def _said(self) -> AsyncIterator[bytes]:
        yield b"hello\n"
        await asyncio.Event().wait()

    async def explain(self, task_id: str, _running: Any) -> dict[str, Any]:
        """A task of somebody else's."""
        return {"task_id": task_id, "namespace": "theirs"}

    async def teller_of(self, _task_id: str) -> None:
        """The mesh is small."""

    async def running_tasks(self) -> dict[str, str]:
        """Nothing."""
        return {}

    async def gather(self, _request: Any) -> Any:
        """Nobody is to come so far."""
        raise AssertionError


async def lines(agent: Agent, who: str, *, told: bool = True, namespace: str = "") -> AsyncIterator[dict[str, Any]]:
    """What a watch tells."""

    async def lister(_api: Backend, _namespace: str) -> list[dict[str, Any]]:
        return agent.items

    where = f"/api/v1/namespaces/{namespace}/pods" if namespace else "/api/v1/pods"
    params: Any = {"namespace": namespace} if namespace else {}
    resource = Resource("v1", "pods", "Pod", lister, tells=told)
    answer: Any = await collection.answer(agent.backend(), resource, agent.request(who, f"{where}?watch=1", **params))
    async for line in answer.body_iterator:
        yield msgspec.json.decode(line)


def revoked(agent: Agent) -> None:
    """The CA withdraws both operators."""
    agent.revoke("op")
    agent.revoke("guest")


def narrowed(agent: Agent) -> None:
    """Both may read something else from now on."""
    agent.give("op", namespaces=("theirs",))
    agent.give("guest", namespaces=("theirs",), role="viewer")


def over(agent: Agent) -> None:
    """Time passes."""
    agent.wall_ms += 4_000 * DAY_MS


ENDS = pytest.mark.parametrize(("end", "code"), [(revoked, 401), (narrowed, 403), (over, 403)])


@ENDS
@pytest.mark.parametrize("who", ["op", "guest"])
@pytest.mark.parametrize("namespace", ["", "mine"])
@pytest.mark.asyncio
async def test_a_watch_ends_with_the_right_to_it(
    end: Any, code: int, who: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What happens afterwards is not told, and why it ended is; also when nothing happens at all."""
    monkeypatch.setattr(collection, "TOLD_EVERY_S", 0.01)
    for news in ([Agent.item("first"), Agent.item("secret")], [Agent.item("first")]):
        agent = Agent()
        watch = lines(agent, who, namespace=namespace)
        assert (await anext(watch))["object"]["metadata"]["name"] == "first"
        end(agent)
        agent.items = news
        last = await asyncio.wait_for(anext(watch), 5)
        assert (last["type"], last["object"]["code"]) == ("ERROR", code)
        assert await anext(watch, None) is None


@pytest.mark.asyncio
async def test_a_watch_goes_on_when_its_grant_is_renewed() -> None:
    """The next grant lasts longer and covers no less."""
    agent = Agent()
    watch = lines(agent, "guest", told=False)
    await anext(watch)
    agent.give("guest", namespaces=("mine", "theirs"), role="viewer", serial=2, not_after_ms=NOW_MS + 9_000 * DAY_MS)
    agent.wall_ms += 4_000 * DAY_MS
    agent.items = [*agent.items, Agent.item("second")]
    assert (await asyncio.wait_for(anext(watch), 5))["object"]["metadata"]["name"] == "second"


@ENDS
@pytest.mark.parametrize("pod", ["a", "b"], ids=["here", "elsewhere"])
@pytest.mark.asyncio
async def test_a_followed_log_ends_with_the_right_to_it(
    end: Any, code: int, pod: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a container that says nothing too, and whichever agent is asked: the one that relays looks by itself."""
    monkeypatch.setattr(auth, "LOOK_EVERY_S", 0.01)
    agent = Agent()

    async def elsewhere(*_words: Any, **_options: Any) -> Any:
        return StreamingResponse(agent.logs())

    monkeypatch.setattr(itself, "_elsewhere", elsewhere)
    target = f"/api/v1/namespaces/mine/pods/{pod}/log?follow=true"
    answer: Any = await itself.log(agent.backend(), agent.request("guest", target, namespace="mine", name=pod))
    followed = answer.body_iterator
    assert await anext(followed) == b"hello\n"
    end(agent)
    last = await asyncio.wait_for(anext(followed), 5)
    assert last.startswith(b"error: ")
    assert (b"revoked" in last) is (code == 401)
    assert await anext(followed, None) is None


@pytest.mark.asyncio
async def test_a_task_of_another_namespace_is_not_there() -> None:
    """Neither its story nor that there is one is told."""
    agent = Agent()
    target = "/apis/beemesh.io/v1alpha1/tasks/01x/explanation"
    with pytest.raises(NotFound):
        await records.explanation(agent.backend(), agent.request("guest", target, name="01x"))
    answer = await records.explanation(agent.backend(), agent.request("op", target, name="01x"))
    assert answer.status_code == 200


@pytest.mark.asyncio
async def test_a_manifest_of_another_namespace_is_not_gathered() -> None:
    """Not even sealed, and no custodian is troubled."""
    agent = Agent()
    wanted = ReadingBody(ReleaseRequest(key="workload/deployment/theirs/web", manifest=Digest(bytes(32)), epoch=1))
    body = msgspec.msgpack.encode(wanted)
    with pytest.raises(NotAllowed):
        await records.readings(agent.backend(), agent.request("guest", "/apis/beemesh.io/v1alpha1/readings", body))
