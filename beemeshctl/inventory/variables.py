"""The one table of what an inventory may say about a host.

Each row is a variable with its JSON Schema, default and documentation (unit, range, trade-off). The inventory's schema,
its checks, `inventory.example.yaml`'s test and the desired state all read this table. A row that sets a value of
`node.yaml` takes its bounds and words from there, so that neither can drift from the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from beemesh import settings as node

Schema = dict[str, Any]

NOT_SET = None
"""Default of a variable that is worked out when it is absent; its documentation says how."""


@dataclass(frozen=True, slots=True)
class Variable:
    """One row: `setting` is the dotted path in `node.yaml` that it sets, if any."""

    name: str
    schema: Schema
    default: Any
    description: str
    setting: str = ""
    secret: bool = False


TEXT: Schema = {"type": "string", "minLength": 1, "maxLength": 4096}
FLAG: Schema = {"type": "boolean"}
PORT: Schema = {"type": "integer", "minimum": 1, "maximum": 65535}
PATH: Schema = {"type": "string", "pattern": node.ABSOLUTE_PATH_PATTERN, "maxLength": 200}
SHA256: Schema = {"type": "string", "pattern": "^(sha256:)?[0-9a-f]{64}$"}

MAX_IMAGES = 256
"""Image archives per host; each is uploaded and checked by itself."""

IMAGES: Schema = {
    "type": "array",
    "maxItems": MAX_IMAGES,
    "items": {
        "type": "object",
        "properties": {
            "archive": {**TEXT, "description": "Path of a docker-archive or oci-archive tar, beside the inventory."},
            "sha256": {**SHA256, "description": "SHA-256 of the archive file; checked before it is sent and loaded."},
            "name": {**TEXT, "description": "Name that manifests use for the image, such as localhost/hello:1."},
        },
        "required": ["archive", "sha256", "name"],
        "additionalProperties": False,
    },
}

CAPS: Schema = {
    "type": "object",
    "properties": {
        "cpu": {"type": "number", "exclusiveMinimum": 0, "maximum": 4096, "description": "CPUs. Unit: CPUs."},
        "mem_mb": {"type": "integer", "minimum": 1, "maximum": 67_108_864, "description": "Memory. Unit: MiB."},
        "disk_mb": {"type": "integer", "minimum": 1, "maximum": 1_073_741_824, "description": "Disk. Unit: MiB."},
    },
    "additionalProperties": False,
}


def _connection() -> list[Variable]:
    return [
        Variable("ansible_host", TEXT, NOT_SET, "Name or address to connect to. Default: the host's own name."),
        Variable("ansible_port", PORT, 22, "Port of SSH. Range: 1 to 65535."),
        Variable("ansible_user", TEXT, NOT_SET, "User to log in as. Default: the user who runs beemeshctl."),
        Variable(
            "ansible_password",
            TEXT,
            NOT_SET,
            "Password of that user. Trade-off: a key or an agent keeps it out of the file.",
            secret=True,
        ),
        Variable("ansible_ssh_pass", TEXT, NOT_SET, "Older name of ansible_password.", secret=True),
        Variable(
            "ansible_ssh_private_key_file",
            TEXT,
            NOT_SET,
            "Private key to log in with. Default: the SSH agent's keys and those in ~/.ssh.",
        ),
        Variable(
            "ansible_connection",
            {"enum": ["ssh", "local"]},
            "ssh",
            "ssh, or local for the machine that runs beemeshctl.",
        ),
        Variable(
            "ansible_become",
            FLAG,
            False,
            "Become root by sudo. Needed where the login user is not root: the agent and podman run as root.",
        ),
        Variable("ansible_become_user", {"const": "root"}, "root", "User to become; only root makes sense here."),
        Variable("ansible_become_method", {"const": "sudo"}, "sudo", "How to become root; only sudo is supported."),
        Variable(
            "ansible_become_password",
            TEXT,
            NOT_SET,
            "Password for sudo. Trade-off: passwordless sudo for this user keeps it out of the file.",
            secret=True,
        ),
        Variable("ansible_become_pass", TEXT, NOT_SET, "Older name of ansible_become_password.", secret=True),
        Variable(
            "ansible_python_interpreter",
            TEXT,
            "python3",
            "Python 3.11 or newer on the host; the agent runs on it. Trade-off: an upgrade of that Python to another "
            "minor version needs another bootstrap.",
        ),
        Variable(
            "ansible_ssh_common_args",
            {"type": "string", "maxLength": 1024},
            "",
            "Only jump hosts are read: '-J user@host:port' or '-o ProxyJump=user@host:port'; anything else is refused.",
        ),
    ]


def _identity() -> list[Variable]:
    return [
        Variable(
            "beemesh_mesh",
            {"type": "string", "pattern": node.NAME_PATTERN},
            "beemesh",
            "Name of the mesh, the same for every host; part of every certificate. It cannot be changed later.",
            "mesh",
        ),
        Variable(
            "beemesh_name",
            {"type": "string", "pattern": node.NAME_PATTERN},
            NOT_SET,
            "Name of the node, unique in the mesh: lower-case letters, digits and hyphens. Default: the host's name.",
            "node.name",
        ),
        _from_setting("beemesh_site", "node.site"),
        _from_setting("beemesh_zone", "node.zone"),
        _from_setting("beemesh_org", "node.org"),
        _from_setting("beemesh_labels", "node.labels"),
        _from_setting("beemesh_taints", "node.taints"),
        Variable(
            "beemesh_keeper",
            FLAG,
            True,
            "Whether the node keeps records and shares for others. Trade-off: laptops that sleep should not, and the "
            "mesh needs a few nodes that do.",
        ),
        Variable(
            "beemesh_failure_domain",
            {**TEXT, "maxLength": 63},
            NOT_SET,
            "Machines with the same value are taken to fail together and hold one share at most. Default: worked out "
            "from the machine's id. Trade-off: set it for virtual machines on one hypervisor.",
        ),
        Variable(
            "beemesh_caps",
            CAPS,
            {},
            "Most that the node may ever offer, signed by the operator. Default: what the machine has. Trade-off: a "
            "cap keeps a node from boasting, and a later upgrade of the machine unused until it is raised.",
        ),
    ]


def _network() -> list[Variable]:
    return [
        Variable(
            "beemesh_address",
            {**TEXT, "maxLength": 253},
            NOT_SET,
            "IP address at which other nodes reach this one. Default: ansible_host when it is an IP address, else the "
            "address at which SSH reached the host; 127.0.0.1 when every host of the inventory is local.",
        ),
        Variable(
            "beemesh_listen_address",
            {**TEXT, "maxLength": 64},
            "0.0.0.0",  # noqa: S104 - the documented default of the node's own configuration
            "IP address to listen on. Trade-off: 0.0.0.0 answers on every interface; one address keeps the mesh off "
            "the others.",
        ),
        Variable(
            "beemesh_gossip_port",
            PORT,
            node.DEFAULT_GOSSIP_PORT,
            "Port of gossip (UDP) and streams (TCP). Range: 1 to 65535.",
        ),
        Variable("beemesh_api_port", PORT, node.DEFAULT_API_PORT, "Port of the HTTPS API (TCP). Range: 1 to 65535."),
        _from_setting("beemesh_metrics_listen", "listen.metrics"),
    ]


def _running() -> list[Variable]:
    return [
        _from_setting("beemesh_runtime", "runtime.engine"),
        _from_setting("beemesh_max_concurrent_deployments", "runtime.max_concurrent_deployments"),
        _from_setting("beemesh_state", "runtime.state"),
        _from_setting("beemesh_state_size_mb", "runtime.state_size_mb"),
        _from_setting("beemesh_containers_conf", "runtime.containers_conf"),
        Variable(
            "beemesh_images",
            IMAGES,
            [],
            "Image archives to bring along for machines without a registry: path (beside the inventory), SHA-256 and "
            "name; each is loaded once. Trade-off: uploads take time and disk on every host that lists them.",
        ),
        Variable(
            "beemesh_service",
            {"enum": ["auto", "systemd", "supervised"]},
            "auto",
            "Who keeps the agent running: systemd, a supervisor of our own, or auto (systemd where it runs). "
            "Trade-off: the supervisor does not start at boot by itself.",
        ),
        _from_setting("beemesh_data_dir", "paths.data"),
        _from_setting("beemesh_config_dir", "paths.config"),
        _from_setting("beemesh_prefix", "paths.prefix"),
        _from_setting("beemesh_state_dir", "paths.state"),
        _from_setting("beemesh_lock_dir", "paths.locks"),
    ]


def _policy() -> list[Variable]:
    return [
        _from_setting("beemesh_namespaces", "policies.admission.namespaces"),
        _from_setting("beemesh_max_pods", "policies.admission.max_pods"),
        _from_setting("beemesh_allow_plain_swap", "policies.admission.allow_plain_swap"),
        _from_setting("beemesh_allow_same_host", "policies.custody.allow_same_host"),
        _from_section("beemesh_reserve", "reserve", node.Reserve),
        _from_section("beemesh_overcommit", "policies.overcommit", node.Overcommit),
        _from_section("beemesh_scheduler", "scheduler", node.Scheduler),
        _from_section("beemesh_membership", "membership", node.Membership),
        _from_section("beemesh_log", "log", node.Log),
    ]


@cache
def table() -> dict[str, Variable]:
    """Every variable by name, in the order of the documentation."""
    rows = [*_connection(), *_identity(), *_network(), *_running(), *_policy()]
    return {row.name: row for row in rows}


def _from_setting(name: str, path: str) -> Variable:
    schema: Any = node.section_schema(node.NodeSettings)
    for step in path.split("."):
        schema = schema["properties"][step]
    kept = {key: value for key, value in schema.items() if key not in ("default", "description")}
    return Variable(name, kept, schema["default"], schema["description"], path)


def _from_section(name: str, path: str, section: type[Any]) -> Variable:
    schema = {key: value for key, value in node.section_schema(section).items() if key not in ("title", "description")}
    words = " ".join((section.__doc__ or "").split())
    return Variable(name, schema, {}, f"{words} Values left out keep their defaults.", path)
