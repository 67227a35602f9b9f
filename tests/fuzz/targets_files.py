"""Targets: files that people write, what a machine or an agent answers to `beemeshctl`, and what lies on disks."""

from __future__ import annotations

import asyncio
import io
import json
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from agent.files import load as load_node
from agent.files import read_settings
from agent.store import Store
from beemesh import settings as node_settings
from beemesh.effects import Save
from beemesh.errors import BeemeshError, InvalidInput, Untrusted
from beemesh.workloads.podspec import ReplicaIdentity, open_template, plan_pod
from beemesh.workloads.quantities import mebibytes, millicores, parse_quantity, whole_bytes
from beemesh.workloads.redaction import redact
from beemesh.workloads.resolve import resolve
from beemesh.workloads.validation import check
from beemeshctl.bootstrap.facts import Facts
from beemeshctl.bootstrap.facts import parse as parse_facts
from beemeshctl.client import error_of, fresh_change, items_of, signed_of
from beemeshctl.context import Context, Home
from beemeshctl.inventory.desired import desired_nodes, parse_jump
from beemeshctl.inventory.hosts import expand, limit
from beemeshctl.inventory.positions import parse_document
from beemeshctl.inventory.reader import read_inventory
from beemeshctl.keyfile import Passphrase, read_secret
from beemeshctl.manifests import STDIN, read_manifests
from bench.bare_mesh import BareMesh
from tests.fuzz.examples import example_of
from tests.fuzz.target import Call, Target
from tests.unit.workloads.samples import config_map, container, deployment, pod, secret

ROOT = Path(__file__).resolve().parents[2]
EXISTS = {"operator": "Exists"}


def folder() -> Path:
    """A folder for this process, which goes when it ends."""
    made = tempfile.TemporaryDirectory(prefix="beemesh-fuzz-")
    _FOLDERS.append(made)
    return Path(made.name)


QUANTITIES = (parse_quantity, millicores, whole_bytes, mebibytes)
_FOLDERS: list[tempfile.TemporaryDirectory[str]] = []


def _example_manifests() -> list[bytes]:
    found = [(ROOT / "examples/hello.yaml").read_bytes()]
    probe = {"httpGet": {"path": "/", "port": 80}, "periodSeconds": 3}
    rich = deployment(
        container(env=[{"name": "A", "value": "$(B)"}], ports=[{"containerPort": 80}], livenessProbe=probe),
        template={
            "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Mi"}}],
            "tolerations": [{"operator": "Exists"}],
        },
        replicas=2,
        strategy={"rollingUpdate": {"maxSurge": "25%"}},
    )
    objects = [pod(nodeSelector={"zone": "a"}), rich, config_map(key="value"), secret(token="sweet")]
    return [*found, *(json.dumps(each).encode() for each in objects)]


def _manifests() -> Call:
    def call(data: bytes) -> None:
        found = read_manifests([STDIN], default_namespace="default", strict=False, stdin=io.BytesIO(data))
        resolve(found.objects)

    return call


def _objects() -> Call:
    """A document as it comes from elsewhere than YAML, with `allow_unsupported` and all."""

    def call(data: bytes) -> None:
        try:
            document = json.loads(data)
        except (ValueError, RecursionError):
            return
        checked = check(document, default_namespace="default", allow_unsupported=True)
        if checked.object is not None:
            resolve([checked.object])

    return call


def _templates() -> list[bytes]:
    found = read_manifests([str(ROOT / "examples/hello.yaml")], default_namespace="default")
    return [work.template.reveal() for work in resolve(found.objects).workloads]


def _template() -> Call:
    identity = ReplicaIdentity("hello-1-0", "default", "a")

    def call(data: bytes) -> None:
        template = open_template(data)
        plan_pod(template, identity)
        redact("an error that names honey-is-sweet", template)

    return call


def _of_text(*reads: Callable[[str], Any]) -> Callable[[], Call]:
    def make() -> Call:
        def call(data: bytes) -> None:
            text = data.decode("utf-8", "replace")
            for read in reads:
                try:
                    read(text)
                except (InvalidInput, ValueError) as error:
                    if isinstance(error, ValueError) and not _is_documented(read):
                        raise

        return call

    return make


def _is_documented(read: Callable[[str], Any]) -> bool:
    """Quantities raise `ValueError`, and say so; everything else raises `InvalidInput`."""
    return read in QUANTITIES


def _words(*words: str) -> Callable[[], list[bytes]]:
    return lambda: [word.encode() for word in words]


def _inventories() -> list[bytes]:
    small = {
        "all": {
            "vars": {"beemesh_mesh": "home", "ansible_user": "root", "beemesh_labels": {"a": "b"}},
            "hosts": {"n1": {"ansible_host": "10.0.0.1"}, "web[1:3]": {"beemesh_site": "{{ inventory_hostname }}"}},
            "children": {"keepers": {"hosts": {"n1": None}, "vars": {"beemesh_keeper": True}}},
        }
    }
    return [(ROOT / "inventory.example.yaml").read_bytes(), json.dumps(small).encode()]


def _inventory() -> Call:
    path = folder() / "inventory.yaml"

    def call(data: bytes) -> None:
        path.write_bytes(data)
        inventory = read_inventory(path)
        desired_nodes(inventory, list(inventory.hosts))

    return call


def _settings_files() -> list[bytes]:
    node = {"mesh": "home", "node": {"name": "a", "labels": {"x": "y"}}, "listen": {"gossip": "0.0.0.0:7946"}}
    return [json.dumps(node).encode(), b"mesh: home\nnode: {name: a}\nscheduler: {weights: {}}\n"]


def _settings() -> Call:
    place = folder()

    def call(data: bytes) -> None:
        (place / "node.yaml").write_bytes(data)
        read_settings(place)

    return call


def _plain_settings() -> Call:
    def call(data: bytes) -> None:
        try:
            plain = json.loads(data)
        except (ValueError, RecursionError):
            return
        node_settings.decode(plain)

    return call


@cache
def _config() -> Path:
    """The configuration of a node, as bootstrap leaves it."""
    return BareMesh(folder(), 2).folder / "b0" / "config"


def _node_files() -> list[bytes]:
    """Each file with its place in front."""
    files = sorted(path for path in _config().iterdir() if path.is_file())
    return [bytes([place]) + path.read_bytes() for place, path in enumerate(files)]


def _node() -> Call:
    """An agent starts with one of its files altered."""
    config = _config()
    files = sorted(path for path in config.iterdir() if path.is_file())
    good = [path.read_bytes() for path in files]

    def call(data: bytes) -> None:
        place = data[0] % len(files) if data else 0
        files[place].write_bytes(data[1:])
        try:
            load_node(config)
        finally:
            files[place].write_bytes(good[place])

    return call


def _stores() -> list[bytes]:
    async def made(path: Path) -> None:
        store = Store(path)
        await store.write([Save("intents", b"key", b"value"), Save("served", b"k", bytes(300))])
        await store.close()

    path = folder() / "state.db"
    asyncio.run(made(path))
    return [path.read_bytes()]


def _store() -> Call:
    place = folder()

    def call(data: bytes) -> None:
        path = place / "state.db"
        for leftover in place.iterdir():
            leftover.unlink()
        path.write_bytes(data)
        asyncio.run(_read(path))

    return call


async def _read(path: Path) -> None:
    store = Store(path)
    try:
        list(store.rows("intents"))
    finally:
        await store.close()


def _key_files() -> list[bytes]:
    none = {"format": "beemesh-secret/1", "kdf": "none", "secret": "AAAA"}
    argon = {"kdf": "argon2id", "ops": 1, "memory_bytes": 8192, "salt": "A" * 22 + "==", "box": "A" * 100}
    return [json.dumps(none).encode(), json.dumps({**none, **argon}).encode()]


def _key_file() -> Call:
    path = folder() / "ca.key"

    class Known(Passphrase):
        def for_old_keys(self) -> str:
            return "correct horse battery"

    def call(data: bytes) -> None:
        path.write_bytes(data)
        read_secret(path, Known(none=True))

    return call


def _contexts() -> list[bytes]:
    return [msgspec.json.encode(example_of(Context)), b"mesh: home\noperator: ops\nagents: []\n"]


def _context() -> Call:
    home = Home(folder())

    def call(data: bytes) -> None:
        home.context_file.write_bytes(data)
        home.context()

    return call


def _answers() -> list[bytes]:
    status = {"kind": "Status", "message": "no", "code": 422, "details": {"hint": "h", "causes": [{"message": "m"}]}}
    change = {"type": "ADDED", "object": {"metadata": {"name": "a", "namespace": "b"}, "code": 500}}
    return [
        json.dumps(each).encode() for each in (status, change, {"type": "ERROR", "object": status}, {"record": "AAAA"})
    ]


def _answer() -> Call:
    """What an agent answers: an error, a line of a watch, an entry with a record."""

    def call(data: bytes) -> None:
        error_of(422, data)
        error_of(500, data)
        try:
            content = json.loads(data)
        except (ValueError, RecursionError):
            return
        for read in (
            lambda: signed_of(content),
            lambda: [signed_of(item) for item in items_of(content)],
            lambda: fresh_change(data, OrderedDict()),
        ):
            try:
                read()
            except BeemeshError:
                continue

    return call


def _facts() -> list[bytes]:
    return [b"motd\n" + msgspec.json.encode(example_of(Facts))]


def _facts_call() -> Call:
    return lambda data: parse_facts(data).target


def _yaml_documents() -> Call:
    return lambda data: parse_document(data.decode("utf-8", "replace"), "x.yaml")


def _limited(text: str) -> Sequence[str]:
    return limit(text, ["n1", "n2", "web1"], {"web": ["web1"]})


TARGETS = (
    Target("manifests", "text", _manifests, _example_manifests, (), slow=True),
    Target("objects", "json", _objects, lambda: _example_manifests()[2:], (), slow=True),
    Target("pod-template", "json", _template, _templates, (InvalidInput,)),
    Target(
        "quantity",
        "text",
        _of_text(parse_quantity, millicores, whole_bytes, mebibytes),
        _words("1.5", "10Mi", "1e3", "5m"),
    ),
    Target("host-pattern", "text", _of_text(expand), _words("web[01:20:2].lan", "a[b:f]", "n[1:3]-[1:2]")),
    Target("host-limit", "text", _of_text(_limited), _words("web:!n1", "n*:&web", "~n[12]", "n1,n2"), slow=True),
    Target("jump-host", "text", _of_text(parse_jump), _words("-J a@b:22,c", "-o ProxyJump=[::1]:22")),
    Target("inventory", "text", _inventory, _inventories, (InvalidInput,), slow=True),
    Target("inventory-json", "json", _inventory, lambda: _inventories()[1:2], (InvalidInput,), slow=True),
    Target("yaml-with-places", "text", _yaml_documents, _inventories, (InvalidInput,), slow=True),
    Target("node-settings", "text", _settings, _settings_files, (InvalidInput,), slow=True),
    Target("plain-settings", "json", _plain_settings, lambda: _settings_files()[:1], (InvalidInput,)),
    Target("node-files", "msgpack", _node, _node_files, (InvalidInput, Untrusted), slow=True, head=1),
    Target("store-file", "bytes", _store, _stores, (BeemeshError,), slow=True),
    Target("key-file", "json", _key_file, _key_files, (BeemeshError,), slow=True),
    Target("context", "json", _context, _contexts, (InvalidInput,), slow=True),
    Target("agent-answer", "json", _answer, _answers),
    Target("facts", "json", _facts_call, _facts, (BeemeshError,)),
)
