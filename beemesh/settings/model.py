"""The sections of `node.yaml` as structs: types, bounds, defaults and documentation of every value."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from beemesh.settings.fields import (
    ABSOLUTE_PATH_PATTERN,
    DEFAULT_API_PORT,
    DEFAULT_GOSSIP_PORT,
    ENDPOINT_PATTERN,
    MAX_LABELS,
    MAX_SEEDS,
    MAX_TAINTS,
    NAME_PATTERN,
    EndpointText,
    LabelKey,
    LabelValue,
    TaintText,
    setting,
)


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A mapping in the file: unknown keys are refused, never ignored."""


class NodeIdentity(_Section, frozen=True):
    """Who this machine is. The signed membership card says the same; the agent refuses a config that disagrees."""

    name: Annotated[str, setting("Name of the node, unique in the mesh.", pattern=NAME_PATTERN)]
    site: Annotated[
        str,
        setting(
            "Place that fails and is reached as one (a house, a shop, a data centre).",
            trade_off="finer sites spread replicas and shares better, coarser ones keep traffic local.",
            max_length=63,
        ),
    ] = "default"
    zone: Annotated[
        str,
        setting(
            "Part of a site with its own power or switch.", trade_off="as for site, one level below.", max_length=63
        ),
    ] = "default"
    org: Annotated[
        str,
        setting(
            "Organisation that owns the machine; residency rules and concentration limits look at it.",
            trade_off="leave it alone unless several owners share the mesh.",
            max_length=63,
        ),
    ] = "default"
    labels: Annotated[
        dict[LabelKey, LabelValue],
        setting(
            "Labels that node selectors and affinities match.",
            trade_off="every member sees them: put no secret here.",
            max_length=MAX_LABELS,
        ),
    ] = {}
    taints: Annotated[
        list[TaintText],
        setting(
            "Taints, each key[=value]:NoSchedule, :PreferNoSchedule or :NoExecute.",
            trade_off="a tainted node is kept free for pods that tolerate it, and may stand idle.",
            max_length=MAX_TAINTS,
        ),
    ] = []


class Listen(_Section, frozen=True):
    """Where the agent listens."""

    gossip: Annotated[
        str,
        setting(
            "Address and port of gossip: UDP for datagrams, TCP on the same port for streams.",
            trade_off="0.0.0.0 answers on every interface; one address keeps the mesh off the others.",
            pattern=ENDPOINT_PATTERN,
        ),
    ] = f"0.0.0.0:{DEFAULT_GOSSIP_PORT}"
    api: Annotated[
        str,
        setting(
            "Address and port of the HTTPS API (client certificate required).",
            trade_off="bind it to a management network to hide it from the workloads' one.",
            pattern=ENDPOINT_PATTERN,
        ),
    ] = f"0.0.0.0:{DEFAULT_API_PORT}"
    metrics: Annotated[
        str,
        setting(
            "Address and port of plain HTTP for /metrics, /healthz, /readyz alone (the API has them too); empty: none.",
            trade_off="a Prometheus needs no certificate there; whoever reaches the port can read counts and states.",
            pattern=f"^$|{ENDPOINT_PATTERN}",
        ),
    ] = ""


class Weights(_Section, frozen=True):
    """Shares of a bid's score; they are divided by their sum."""

    fit: Annotated[
        float,
        setting("How well the free resources fit.", trade_off="more packs and balances better.", ge=0.0, le=1.0),
    ] = 0.5
    locality: Annotated[
        float,
        setting(
            "Nearness: image and data already here, wished site and zone.",
            trade_off="more starts pods faster, and fills near nodes first.",
            ge=0.0,
            le=1.0,
        ),
    ] = 0.3
    reliability: Annotated[
        float,
        setting(
            "What the node has earned by keeping its word.",
            trade_off="more avoids flaky nodes, and starves new ones.",
            ge=0.0,
            le=1.0,
        ),
    ] = 0.1
    qos: Annotated[
        float,
        setting(
            "Price, class and energy.",
            trade_off="more saves money and power, and gives up fit.",
            ge=0.0,
            le=1.0,
        ),
    ] = 0.1


class Scheduler(_Section, frozen=True):
    """Timing of bids and leases. Nodes of one mesh should agree; give these to the group `all`."""

    selection_window_ms: Annotated[
        int,
        setting(
            "How long bids for a task are collected.",
            unit="ms",
            trade_off="longer hears slower nodes, and delays every pod by as much.",
            ge=20,
            le=5000,
        ),
    ] = 250
    selection_jitter_ms: Annotated[
        int,
        setting(
            "Spread of the moment at which nodes speak.",
            unit="ms",
            trade_off="wider has fewer redundant bids, and later ones.",
            ge=0,
            le=5000,
        ),
    ] = 100
    lease_ttl_ms: Annotated[
        int,
        setting(
            "Life of a placement lease that is not renewed.",
            unit="ms",
            trade_off="longer survives slow networks; shorter replaces a dead winner sooner.",
            ge=500,
            le=60_000,
        ),
    ] = 3000
    lease_renew_ms: Annotated[
        int,
        setting(
            "How often a lease is renewed; at most half of lease_ttl_ms.",
            unit="ms",
            trade_off="more often survives more losses, at more messages.",
            ge=100,
            le=30_000,
        ),
    ] = 1000
    deploy_timeout_ms: Annotated[
        int,
        setting(
            "Time from the lease to a running pod; a pull that makes progress extends it.",
            unit="ms",
            trade_off="longer forgives slow disks; shorter tries the next node sooner.",
            ge=1000,
            le=600_000,
        ),
    ] = 10_000
    clock_skew_ms: Annotated[
        int,
        setting(
            "Largest accepted difference between a datagram's time and ours.",
            unit="ms",
            trade_off="larger tolerates bad clocks, and lets an old datagram count for longer.",
            ge=1000,
            le=300_000,
        ),
    ] = 30_000
    max_attempts: Annotated[
        int,
        setting(
            "Failed attempts after which a task is Failed.",
            unit="attempts",
            trade_off="more rides out passing faults; fewer says sooner that something is wrong.",
            ge=1,
            le=100,
        ),
    ] = 5
    announce_up_to: Annotated[
        int,
        setting(
            "Live nodes up to which every task is announced to all; in a larger mesh a sample of candidates is asked.",
            unit="nodes",
            trade_off="more finds the best node more surely, at messages that grow with the mesh.",
            ge=1,
            le=1000,
        ),
    ] = 200
    weights: Weights = Weights()


class Membership(_Section, frozen=True):
    """Failure detection (SWIM with Lifeguard); the defaults are those of memberlist's LAN profile."""

    probe_interval_ms: Annotated[
        int,
        setting(
            "One member is probed every so often.",
            unit="ms",
            trade_off="shorter notices death sooner, at more datagrams.",
            ge=50,
            le=60_000,
        ),
    ] = 1000
    probe_timeout_ms: Annotated[
        int,
        setting(
            "A direct probe unanswered for so long is repeated through others.",
            unit="ms",
            trade_off="shorter is quicker; longer forgives slow links.",
            ge=20,
            le=30_000,
        ),
    ] = 500
    indirect_probes: Annotated[
        int,
        setting(
            "Members asked to probe on our behalf.",
            unit="members",
            trade_off="more has fewer false alarms, at more datagrams.",
            ge=0,
            le=16,
        ),
    ] = 3
    gossip_interval_ms: Annotated[
        int,
        setting(
            "News is passed on every so often.",
            unit="ms",
            trade_off="shorter spreads faster, at more datagrams.",
            ge=20,
            le=10_000,
        ),
    ] = 200
    gossip_fanout: Annotated[
        int,
        setting("Members that get the news each time.", unit="members", trade_off="as above.", ge=1, le=16),
    ] = 3
    push_pull_interval_ms: Annotated[
        int,
        setting(
            "Whole state is compared with one member every so often.",
            unit="ms",
            trade_off="shorter heals lost news sooner, at more bytes.",
            ge=500,
            le=600_000,
        ),
    ] = 30_000


class Overcommit(_Section, frozen=True):
    """How much more than the machine has may be promised."""

    cpu: Annotated[
        float,
        setting("Factor on the CPUs.", unit="times", trade_off="above 1 pods may slow each other.", ge=0.1, le=16.0),
    ] = 1.0
    mem: Annotated[
        float,
        setting("Factor on the memory.", unit="times", trade_off="above 1 pods may be killed.", ge=0.1, le=4.0),
    ] = 1.0


class Admission(_Section, frozen=True):
    """What this node accepts at all."""

    namespaces: Annotated[
        list[str],
        setting(
            "Namespaces whose pods may run here; empty means every one.",
            trade_off="a short list keeps a machine for its owner, and out of the pool.",
            max_length=256,
        ),
    ] = []
    max_pods: Annotated[
        int,
        setting(
            "Pods that may run here at once.",
            unit="pods",
            trade_off="more uses the machine better, until it chokes on their overhead.",
            ge=0,
            le=10_000,
        ),
    ] = 110
    allow_plain_swap: Annotated[
        bool,
        setting(
            "Accept sealed work although swap is neither zram nor encrypted.",
            trade_off="true lets secrets reach the disk through swap.",
        ),
    ] = False


class Custody(_Section, frozen=True):
    """Rules for the shares of sealed manifests."""

    allow_same_host: Annotated[
        bool,
        setting(
            "Count several agents on one host as separate custodians.",
            trade_off="true is for demos: one broken host then holds enough shares to open manifests.",
        ),
    ] = False


class Policies(_Section, frozen=True):
    """What the owner of the machine allows."""

    overcommit: Overcommit = Overcommit()
    admission: Admission = Admission()
    custody: Custody = Custody()


class Runtime(_Section, frozen=True):
    """How containers are run."""

    engine: Annotated[
        Literal["podman", "process", "mock"],
        setting(
            "Engine: podman; process (a host process without a container's walls); mock (runs nothing, for tests).",
            trade_off="process needs no podman, and confines much less.",
        ),
    ] = "podman"
    max_concurrent_deployments: Annotated[
        int,
        setting(
            "Pods that may be started at the same time.",
            unit="pods",
            trade_off="more starts a crowd sooner, and each of it later.",
            ge=1,
            le=100,
        ),
    ] = 10
    state: Annotated[
        Literal["memory", "disk"],
        setting(
            "Where podman keeps its containers and their configuration.",
            trade_off="memory leaves no plaintext on disk; disk saves memory and writes env values and secrets to it.",
        ),
    ] = "memory"
    state_size_mb: Annotated[
        int,
        setting(
            "Size of the memory-backed store.",
            unit="MiB",
            trade_off="larger holds more writable layers, and may use as much memory.",
            ge=16,
            le=1_048_576,
        ),
    ] = 512
    containers_conf: Annotated[
        str,
        setting(
            "A containers.conf to hand to podman; empty leaves podman its own.",
            trade_off="needed only where the host's podman is not set up.",
            max_length=4096,
        ),
    ] = ""


class Reserve(_Section, frozen=True):
    """What is never given to pods."""

    cpu_percent: Annotated[
        float,
        setting("Share of all CPUs.", unit="%", trade_off="more keeps the host lively, and wastes it.", ge=0, le=100),
    ] = 10
    mem_mb: Annotated[
        int,
        setting("Memory.", unit="MiB", trade_off="too little invites the OOM killer.", ge=0, le=1_048_576),
    ] = 512
    disk_mb: Annotated[
        int,
        setting("Free disk space.", unit="MiB", trade_off="too little fills the host's disk.", ge=0, le=1_073_741_824),
    ] = 1024


class Paths(_Section, frozen=True):
    """Where things lie. Several agents on one host need separate ones, except `locks`, which they must share."""

    data: Annotated[
        str,
        setting("Keys, state, images, volumes, the agent's socket.", pattern=ABSOLUTE_PATH_PATTERN, max_length=96),
    ] = "/var/lib/beemesh"
    config: Annotated[
        str,
        setting("This file and what was signed for the node.", pattern=ABSOLUTE_PATH_PATTERN, max_length=200),
    ] = "/etc/beemesh"
    prefix: Annotated[
        str,
        setting("The agent's own program files.", pattern=ABSOLUTE_PATH_PATTERN, max_length=200),
    ] = "/opt/beemesh"
    state: Annotated[
        str,
        setting(
            "Mount point of the memory-backed store.",
            trade_off="on a disk it would hold plaintext: it must be a tmpfs when runtime.state is memory.",
            pattern=ABSOLUTE_PATH_PATTERN,
            max_length=46,
        ),
    ] = "/run/beemesh/state"
    locks: Annotated[
        str,
        setting(
            "Locks for host ports and image stores, shared by every agent on the host.",
            trade_off="separate ones let two agents take one port.",
            pattern=ABSOLUTE_PATH_PATTERN,
            max_length=200,
        ),
    ] = "/run/lock/beemesh"


class Service(_Section, frozen=True):
    """Who keeps the agent running."""

    manager: Annotated[
        Literal["systemd", "supervised"],
        setting(
            "systemd unit, or a small supervisor of our own where there is no systemd.",
            trade_off="the supervisor does not start at boot by itself.",
        ),
    ] = "systemd"


class Log(_Section, frozen=True):
    """What the agent says."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"],
        setting("Least severity that is written.", trade_off="debug is loud and costs CPU."),
    ] = "info"
    format: Annotated[
        Literal["json", "text"],
        setting("One JSON object per line, or text.", trade_off="text reads easier, and is harder to search."),
    ] = "json"


class NodeSettings(_Section, frozen=True):
    """The whole of `node.yaml`."""

    mesh: Annotated[str, setting("Name of the mesh; part of every certificate.", pattern=NAME_PATTERN)]
    node: NodeIdentity
    listen: Listen = Listen()
    seeds: Annotated[
        list[EndpointText],
        setting(
            "Gossip addresses to try first; a hint only, for a node keeps the whole roster on disk.",
            trade_off="more survive more moved machines, until the first contact is made.",
            max_length=MAX_SEEDS,
        ),
    ] = []
    scheduler: Scheduler = Scheduler()
    membership: Membership = Membership()
    policies: Policies = Policies()
    runtime: Runtime = Runtime()
    reserve: Reserve = Reserve()
    paths: Paths = Paths()
    service: Service = Service()
    log: Log = Log()
