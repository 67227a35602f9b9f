"""`beemeshctl rollout`: how far a new revision is, and taking it back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from beemesh.errors import ExitCode
from beemeshctl.clock import wall_ms
from beemeshctl.options import duration_s, namespace_option, timeout_option, via_option

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from beemesh.workloads.record import Workload
    from beemesh.workloads.rollout_report import RevisionLine

words_argument = click.argument("words", nargs=-1, required=True, metavar="TYPE NAME | TYPE/NAME…")
json_option = click.option(
    "-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True, help="How to print."
)


@click.group()
def command() -> None:
    """Watch, pause, repeat and take back what is rolled out.

    \b
    Examples:
      beemeshctl rollout status deployment/hello
      beemeshctl rollout history deployment/hello
      beemeshctl rollout undo deployment/hello --to-revision 3
    """


@command.command()
@words_argument
@namespace_option
@click.option("-w", "--watch/--no-watch", default=True, help="Go on until it is complete or has failed.")
@timeout_option
@json_option
@via_option
def status(words: tuple[str, ...], namespace: str, watch: bool, timeout: str, output: str, via: str) -> int:
    """Say how far rollouts are, step by step. Exits with 1 when one has failed, and with 4 on time-out.

    \b
    Examples:
      beemeshctl rollout status deployment/hello --timeout 2m
      beemeshctl rollout status deployment/hello --no-watch -o json
    """
    from beemesh.workloads.rollout_report import line_of
    from beemeshctl.client import Client
    from beemeshctl.render import say_nothing
    from beemeshctl.rollouts import follow, look, targets

    client = Client(via=via)
    wanted = targets(words, namespace)
    told: Callable[[str], None] = click.echo if output == "text" else say_nothing
    reports = follow(client, wanted, duration_s(timeout), told) if watch else [look(client, each) for each in wanted]
    if output == "json":
        _print_json(reports)
    for report in reports if output == "text" else ():
        click.echo(line_of(report), err=report.state == "failed")
    return ExitCode.FAILED if any(report.state == "failed" for report in reports) else ExitCode.DONE


@command.command()
@words_argument
@namespace_option
@click.option("--revision", type=click.IntRange(1), default=None, metavar="N", help="Only this one.")
@json_option
@via_option
def history(words: tuple[str, ...], namespace: str, revision: int | None, output: str, via: str) -> int:
    """List the revisions that can be gone back to. `kubernetes.io/change-cause` in a manifest says why there is one.

    \b
    Examples:
      beemeshctl rollout history deployment/hello
      beemeshctl rollout history deployment/hello --revision 3 -o json
    """
    import msgspec

    from beemesh.errors import NotFound
    from beemesh.workloads.rollout_report import history_of
    from beemeshctl.client import Client
    from beemeshctl.rollouts import Reviser, targets

    reviser = Reviser(Client(via=via))
    found = []
    for target in targets(words, namespace):
        listed = history_of(reviser.standing(target))
        if revision is not None:
            kept = tuple(line for line in listed.revisions if revision in (line.revision, *line.aliases))
            if not kept:
                there = ", ".join(str(line.revision) for line in listed.revisions)
                raise NotFound(f"{target.shown} has no revision {revision}", hint=f"kept: {there}")
            listed = msgspec.structs.replace(listed, revisions=kept)
        found.append((target.shown, listed))
    if output == "json":
        _print_json([listed for _, listed in found])
        return ExitCode.DONE
    for shown, listed in found:
        click.echo(shown)
        _print_history(listed.revisions)
    return ExitCode.DONE


@command.command()
@words_argument
@namespace_option
@click.option("--to-revision", type=click.IntRange(0), default=0, metavar="N", help="0 is the one before.")
@via_option
def undo(words: tuple[str, ...], namespace: str, to_revision: int, via: str) -> int:
    """Go back to an older revision, without its manifest: what was sealed for it still is. It becomes the newest one.

    \b
    Examples:
      beemeshctl rollout undo deployment/hello
      beemeshctl rollout undo deployment/hello --to-revision 3
    """
    from beemesh.workloads.revising import undone
    from beemeshctl.client import Client
    from beemeshctl.rollouts import Reviser, targets

    reviser = Reviser(Client(via=via))
    for target in targets(words, namespace):
        before = reviser.standing(target)
        after = undone(before, to_revision, wall_ms())
        reviser.check_openable(target, after.current)
        reviser.revise(target, before, after)
        click.echo(f"{target.shown} rolled back to revision {after.current.aliases[-1]}")
    return ExitCode.DONE


@command.command()
@words_argument
@namespace_option
@via_option
def restart(words: tuple[str, ...], namespace: str, via: str) -> int:
    """Replace every pod by a new one of the same template, as its strategy says. Also a new try of what failed.

    \b
    Examples:
      beemeshctl rollout restart deployment/hello
    """
    from beemesh.workloads.revising import restarted

    return _revise(words, namespace, via, lambda before: restarted(before, wall_ms()), "restarted")


@command.command()
@words_argument
@namespace_option
@via_option
def pause(words: tuple[str, ...], namespace: str, via: str) -> int:
    """Let a rollout stand still. What dies meanwhile is replaced as it was.

    \b
    Examples:
      beemeshctl rollout pause deployment/hello
    """
    from beemesh.workloads.revising import with_paused

    return _revise(words, namespace, via, lambda before: with_paused(before, paused=True), "paused")


@command.command()
@words_argument
@namespace_option
@via_option
def resume(words: tuple[str, ...], namespace: str, via: str) -> int:
    """Go on with a rollout that was paused.

    \b
    Examples:
      beemeshctl rollout resume deployment/hello
    """
    from beemesh.workloads.revising import with_paused

    return _revise(words, namespace, via, lambda before: with_paused(before, paused=False), "resumed")


def _revise(words: tuple[str, ...], namespace: str, via: str, change: Callable[[Workload], Workload], verb: str) -> int:
    from beemeshctl.client import Client
    from beemeshctl.rollouts import Reviser, targets

    reviser = Reviser(Client(via=via))
    for target in targets(words, namespace):
        before = reviser.standing(target)
        reviser.revise(target, before, change(before))
        click.echo(f"{target.shown} {verb}")
    return ExitCode.DONE


def _print_history(lines: Sequence[RevisionLine]) -> None:
    from beemesh.workloads.kubeshape import timestamp
    from beemeshctl.render import print_table

    rows = []
    for line in lines:
        since = timestamp(line.since_ms) if line.since_ms else "<unknown>"
        mark = "*" if line.current else ""
        cause = line.change_cause or "<none>"
        rows.append([f"{line.revision}{mark}", since, ",".join(line.images), line.shares, cause])
    print_table(["REVISION", "SINCE", "IMAGES", "SHARES", "CHANGE-CAUSE"], rows)


def _print_json(items: Sequence[object]) -> None:
    import json

    import msgspec

    click.echo(json.dumps({"kind": "List", "items": msgspec.to_builtins(items)}, indent=2))
