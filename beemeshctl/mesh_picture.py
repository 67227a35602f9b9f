"""Every node's view of the mesh, gathered and put together: who is there, how far apart, and who doubts whom."""

from __future__ import annotations

import heapq
import itertools
import statistics
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from beemesh.errors import BeemeshError
from beemeshctl.render import counted

ASKED_AT_ONCE = 16
HERE = ("alive", "suspect")
NO_SITE = "(no site)"
RTT_COLUMNS_MAX = 16
"""Nodes up to which round trips are a square table: it fits a terminal of 120 columns."""
SITES_EACH_MAX = 8
"""Sites up to which the way between any two of them has a line; of more, each shows its nearest only."""
NEAREST_SITES = 3


@dataclass(frozen=True, slots=True)
class MeshPicture:
    """`views` are the answers of the agents (see `beemesh.membership.picture.Picture`), by node; `silent` says of each
    other member why its agent did not answer; `members` is every node with what the agent in use knows of it."""

    mesh: str
    members: tuple[dict[str, Any], ...]
    views: dict[str, dict[str, Any]]
    silent: dict[str, str] = field(default_factory=dict)

    def links_to(self, name: str) -> list[tuple[str, dict[str, Any]]]:
        """(who looks, what it sees) for one node, by all that answered."""
        return [
            (viewer, link)
            for viewer, view in sorted(self.views.items())
            for link in view["links"]
            if link["node"] == name
        ]

    def site_of(self, name: str) -> str:
        """A node's site, for people."""
        return next((each["site"] for each in self.members if each["node"] == name), "") or NO_SITE

    def rtt_ms(self, one: str, other: str) -> float | None:
        """The mean of what both ends measured; None when neither did."""
        known = [
            link["rtt_ms"]
            for viewer, target in ((one, other), (other, one))
            for link in self.views.get(viewer, {"links": ()})["links"]
            if link["node"] == target and link["rtt_ms"] is not None
        ]
        return statistics.fmean(known) if known else None

    def document(self) -> dict[str, Any]:
        """The stable JSON shape."""
        return {
            "mesh": self.mesh,
            "members": list(self.members),
            "views": [self.views[name] for name in sorted(self.views)],
            "silent": [{"node": name, "reason": why} for name, why in sorted(self.silent.items())],
        }


def gather(via: str) -> MeshPicture:
    """Ask the agent in use who is a member, and every member for its view, all at once."""
    from beemeshctl.client import BEEMESH, Client

    client = Client(via=via)
    roster, states = client.roster()
    members = tuple(
        {"node": card.name, "site": card.site, "zone": card.zone, "state": states[bytes(card.node_id)]}
        for card in sorted(roster.members(), key=lambda card: card.name)
    )

    def ask(name: str) -> dict[str, Any] | str:
        try:
            answer: dict[str, Any] = Client(via=via).get(f"{BEEMESH}/nodes/{name}/links")
            return answer
        except BeemeshError as error:
            return error.message

    asked = [str(member["node"]) for member in members if member["state"] in HERE]
    with ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
        answers = dict(zip(asked, pool.map(ask, asked), strict=True))
    views = {name: answer for name, answer in answers.items() if isinstance(answer, dict)}
    silent = {name: answer for name, answer in answers.items() if isinstance(answer, str)}
    for member in members:
        if member["node"] not in answers:
            silent[str(member["node"])] = f"it is {member['state']}"
    return MeshPicture(client.mesh, members, views, silent)


# --- as text --------------------------------------------------------------------------------------------------------


def status_lines(picture: MeshPicture) -> tuple[list[str], list[str], list[list[str]]]:
    """(a few sentences, heads of the table, one row per node)."""
    here = sum(member["state"] in HERE for member in picture.members)
    lines = [f"mesh {picture.mesh}: {counted(len(picture.members), 'node')}, {here} here"]
    epochs = sorted({view["ring_epoch"] for view in picture.views.values()})
    if len(epochs) > 1 or any(view["ring_keys"] > 1 for view in picture.views.values()):
        done = sum(view["ring_keys"] == 1 for view in picture.views.values())
        lines.append(f"the gossip key is being changed: {done} of {len(picture.views)} nodes are done")
    for doubter, doubted, seconds in suspicions(picture):
        lines.append(f"{doubter} suspects {doubted} for {seconds:.0f} s")
    for viewer, target, state in disagreements(picture):
        lines.append(f"{viewer} holds {target} {state}, others reach it")
    heads = ["NODE", "SITE", "STATE", "SEEN BY", "RTT", "HEALTH", "KEY", "PROTOCOL"]
    return lines, heads, [_status_row(picture, member) for member in picture.members]


def _status_row(picture: MeshPicture, member: dict[str, Any]) -> list[str]:
    name = str(member["node"])
    links = picture.links_to(name)
    seen = sum(link["state"] in HERE for _, link in links)
    rtts = [link["rtt_ms"] for _, link in links if link["rtt_ms"] is not None]
    view = picture.views.get(name)
    return [
        name,
        str(member["site"]) or "-",
        str(member["state"]),
        f"{seen}/{len(links)}",
        in_ms(statistics.median(rtts) if rtts else None),
        "-" if view is None else ("well" if not view["health"] else f"slow ({view['health']})"),
        "-" if view is None else f"{view['ring_epoch'] & 0xFFFF_FFFF:x}",
        "-" if view is None else str(view["protocol_version"]),
    ]


def rtt_pairs(picture: MeshPicture, names: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The stable JSON shape of round trips: between the named nodes, of one with all others, or of all."""
    wanted = set(names)
    return [
        {"from": viewer, "to": link["node"], "rtt_ms": link["rtt_ms"]}
        for viewer, view in sorted(picture.views.items())
        for link in view["links"]
        if len(wanted & {viewer, link["node"]}) == min(len(wanted), 2)
    ]


def rtt_table(picture: MeshPicture, names: Sequence[str] = ()) -> tuple[list[str], list[list[str]]]:
    """Round trips in ms between the named nodes, or all: from the node of a row to that of a column, as the row's node
    measured it. Of more than `RTT_COLUMNS_MAX` nodes, each has one row with its nearest and its farthest; of a single
    one, each other node has a row with the way there and the way back."""
    members = [str(member["node"]) for member in picture.members]
    names = list(dict.fromkeys(names)) or members
    if len(names) == 1:
        return _rtt_of_one(picture, names[0], [name for name in members if name != names[0]])
    if len(names) > RTT_COLUMNS_MAX:
        return ["NODE", "SITE", "MEASURED", "NEAREST", "MEDIAN", "FARTHEST"], [
            _rtt_row(picture, name) for name in names
        ]
    rows = []
    for name in names:
        seen = dict(_measured(picture, name))
        rows.append([name, *("·" if other == name else in_ms(seen.get(other), unit="") for other in names)])
    return ["RTT ms", *names], rows


def _rtt_of_one(picture: MeshPicture, name: str, others: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    there = dict(_measured(picture, name))
    back = {other: dict(_measured(picture, other)).get(name) for other in others}
    rows = [[other, in_ms(there.get(other), unit=""), in_ms(back[other], unit="")] for other in others]
    return ["RTT ms", f"from {name}", f"to {name}"], rows


def _measured(picture: MeshPicture, name: str) -> list[tuple[str, float]]:
    """(other node, ms) as the named one measured it, nearest first."""
    links = picture.views.get(name, {"links": ()})["links"]
    return sorted(
        ((link["node"], link["rtt_ms"]) for link in links if link["rtt_ms"] is not None), key=lambda link: link[1]
    )


def _rtt_row(picture: MeshPicture, name: str) -> list[str]:
    known = _measured(picture, name)
    if not known:
        return [name, picture.site_of(name), "0", "-", "-", "-"]
    nearest, farthest = (f"{in_ms(ms)} {other}" for other, ms in (known[0], known[-1]))
    median = in_ms(statistics.median(ms for _, ms in known))
    return [name, picture.site_of(name), str(len(known)), nearest, median, farthest]


def topology_lines(picture: MeshPicture) -> list[str]:
    """Sites with their nodes, links between sites, and links that do not work."""
    sites: dict[str, list[str]] = {}
    for member in picture.members:
        sites.setdefault(picture.site_of(str(member["node"])), []).append(str(member["node"]))
    lines = [f"mesh {picture.mesh}"]
    for place, (site, names) in enumerate(sorted(sites.items())):
        last_site = place == len(sites) - 1
        within = _median(picture, ((a, b) for a in names for b in names if a < b))
        note = f", {in_ms(within)} within" if within is not None else ""
        lines.append(f"{'└─' if last_site else '├─'} {site}: {counted(len(names), 'node')}{note}")
        for index, name in enumerate(names):
            state = next(str(each["state"]) for each in picture.members if each["node"] == name)
            trunk = "   " if last_site else "│  "
            lines.append(f"{trunk}{'└─' if index == len(names) - 1 else '├─'} {name}  {state}")
    lines += _ways_between(picture, sites)
    broken = [f"{viewer} ✗ {target}: {state}" for viewer, target, state in disagreements(picture)]
    doubts = [f"{by} ? {whom}: suspected for {seconds:.0f} s" for by, whom, seconds in suspicions(picture)]
    return lines + broken + doubts


def _ways_between(picture: MeshPicture, sites: dict[str, list[str]]) -> list[str]:
    between = {
        (one, other): _median(picture, ((a, b) for a in sites[one] for b in sites[other]))
        for one, other in itertools.combinations(sorted(sites), 2)
    }
    shown = set(between)
    if len(sites) > SITES_EACH_MAX:
        shown = set()
        for site in sites:
            near = [(ms, pair) for pair, ms in between.items() if site in pair and ms is not None]
            shown |= {pair for _, pair in heapq.nsmallest(NEAREST_SITES, near)}
    lines = [f"{one} ── {other}: {in_ms(between[one, other])}" for one, other in sorted(shown)]
    if len(shown) < len(between):
        lines.append(f"(of {len(sites)} sites, each with its {NEAREST_SITES} nearest)")
    return lines


def suspicions(picture: MeshPicture) -> list[tuple[str, str, float]]:
    """(accuser, suspect, for how many seconds at the longest), told once however many heard of it."""
    found: dict[tuple[str, str], float] = {}
    for view in picture.views.values():
        for link in view["links"]:
            for accuser in link["suspected_by"]:
                key = (accuser, link["node"])
                found[key] = max(found.get(key, 0.0), link["suspected_s"] or 0.0)
    return [(accuser, suspect, seconds) for (accuser, suspect), seconds in sorted(found.items())]


def disagreements(picture: MeshPicture) -> list[tuple[str, str, str]]:
    """(viewer, node, what it holds it for) where somebody does not see a node that answers."""
    return [
        (viewer, name, link["state"])
        for name in sorted(picture.views)
        for viewer, link in picture.links_to(name)
        if link["state"] not in HERE
    ]


def in_ms(value: float | None, *, unit: str = " ms") -> str:
    """Milliseconds with as many digits as mean something."""
    if value is None:
        return "-"
    return f"{value:.0f}{unit}" if value >= 10 else f"{value:.2f}{unit}"


def _median(picture: MeshPicture, pairs: Iterable[tuple[str, str]]) -> float | None:
    known: Sequence[float] = [rtt for a, b in pairs if (rtt := picture.rtt_ms(a, b)) is not None]
    return statistics.median(known) if known else None
