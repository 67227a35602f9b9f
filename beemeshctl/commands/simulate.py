"""`beemeshctl simulate`: what would happen to a mesh, tried on a simulated one."""

from __future__ import annotations

import dataclasses
import gc
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from beemesh.errors import BeemeshError, ExitCode, InvalidInput
from beemeshctl.options import duration_s

if TYPE_CHECKING:
    from beemesh.workloads.record import Workload
    from simulator.operator import Policy
    from simulator.scenario import Scenario
    from simulator.spec import MachineSpec
    from simulator.stage import Report

APPLY_AT_S, FAULT_AT_S = 2.0, 20.0
EXAMPLE = "example"
"""The workload that stands in where no manifests are named."""

EXAMPLE_REPLICAS_MAX = 100
PARTITION_LASTS = "60s"
PROGRESS_STEP = 10
"""Percent between two words of progress."""

SUFFIXES = (".svg", ".html")

_SAID_BY_SCENARIOS = (*("kill", "crash", "wipe", "pause", "partition", "loss", "lasts", "watch", "delay", "seed"),)
"""Options that a scenario file says instead."""

WHO = "all, 30%, site=berlin (zone, org, any label), or names, patterns and groups with commas between"


@click.command()
@click.option("-i", "--inventory", type=click.Path(path_type=Path), required=True, help="The machines.")
@click.option("--manifests", multiple=True, metavar="FILE|DIR", help="What runs on them. Default: an example.")
@click.option("--kill", multiple=True, metavar="WHO", help=f"Machines that lose power. WHO: {WHO}.")
@click.option("--crash", multiple=True, metavar="WHO", help="Machines whose agent dies; their pods go on.")
@click.option("--wipe", multiple=True, metavar="WHO", help="Machines that lose power and their disk.")
@click.option("--pause", multiple=True, metavar="WHO", help="Machines that stand still (a closed laptop).")
@click.option("--partition", multiple=True, metavar="A[/B]", help="A cannot reach B (or anybody else), nor B reach A.")
@click.option("--loss", default="", metavar="PERCENT", help="So many of all datagrams are lost, all the time.")
@click.option("--for", "lasts", default="", metavar="DURATION", help="How long it lasts. Default: partitions and "
              f"pauses {PARTITION_LASTS}, all else for good.")  # fmt: skip
@click.option("--watch", default="2m", show_default=True, metavar="DURATION", help="How long to look on afterwards.")
@click.option("--scenario", type=click.Path(path_type=Path), help="A file that says what happens instead.")
@click.option("--cpu", default=4.0, show_default=True, help="Cores of each machine.")
@click.option("--memory", default="8Gi", show_default=True, help="Memory of each machine.")
@click.option("--disk", default="100Gi", show_default=True, help="Free disk of each machine.")
@click.option("--delay", default="0.5ms..3ms", show_default=True, help="What a message takes on its way.")
@click.option("--seed", default=0, show_default=True, help="Another seed, another course of chance.")
@click.option("--plot", type=click.Path(path_type=Path), help="Draw it into a file (.svg or .html).")
@click.option("-n", "--namespace", default="default", show_default=True, help="For objects that name none.")
@click.option("--allow-unsupported", is_flag=True, help="Ignore fields of manifests that are not supported yet.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", help="How to print.")
def command(inventory: Path, manifests: tuple[str, ...], plot: Path | None, output: str, **options: Any) -> int:
    """Say what would happen to a mesh: who notices, what moves where, how long it takes, what it costs.

    The very protocols of the agents run on simulated machines, in a simulated network, by a virtual clock. Nothing is
    installed and nothing is contacted. Images are taken to be there, pods to start in 0.3 s, and those of a Job to
    end well after 10 s. The exit code is 1 when something that is wanted does not run in the end.

    \b
    Examples:
      beemeshctl simulate -i inventory.yaml --kill site=berlin
      beemeshctl simulate -i inventory.yaml --manifests deploy/ --kill 30% --plot what-if.html
      beemeshctl simulate -i inventory.yaml --partition site=berlin/site=paris --for 5m
      beemeshctl simulate -i inventory.yaml --scenario monday.scenario
    """
    from beemeshctl.render import ProgressLine
    from simulator.stage import Stage

    _check_plot(plot)
    machines = _machines(inventory, options)
    works, policies = _works(manifests, len(machines), options)
    scenario = _scenario(options, bool(works))
    if scenario.machines:
        count = len(scenario.machines)
        click.echo(f"warning: {scenario.file} has {count} nodes of its own; {inventory} is not used", err=True)
    progress = ProgressLine()

    def told(at_s: float, text: str) -> None:
        progress.done()
        if output == "text":
            click.echo(f"{at_s:8.1f}  {text}")

    def passed(at_s: float) -> None:
        progress.tell(f"{100 * at_s / scenario.end_s // PROGRESS_STEP * PROGRESS_STEP:.0f} % simulated")

    stage = Stage(scenario, machines, works, policies, told, passed)
    gc.disable()  # a simulated mesh is one large web of objects that all stay: looking for waste in it doubles the time
    try:
        report = stage.run()
    finally:
        gc.enable()
        progress.done()
    if output == "json":
        click.echo(json.dumps(_document(report, scenario), indent=2))
    else:
        _print_verdict(report, len(stage.world.machines))
    if plot is not None:
        faults = ", ".join(str(each) for each in scenario.steps if each.action not in ("apply", "expect"))
        _draw(plot, report, f"{inventory.name}: {faults}")
    failed = _is_failed(report)
    return int(ExitCode.FAILED if failed else ExitCode.DONE)


def _check_plot(plot: Path | None) -> None:
    """Refuse before a long simulation what could not be written after it."""
    if plot is not None and plot.suffix not in SUFFIXES:
        raise InvalidInput(f"{plot} ends neither in .svg nor in .html", hint="name the file so that its kind is clear")
    if plot is not None and not plot.absolute().parent.is_dir():
        raise InvalidInput(f"{plot.absolute().parent} is no directory", hint="name a file in one that is there")


# --- what is asked ----------------------------------------------------------------------------------------------------


def _size_mb(name: str, text: str) -> int:
    from beemesh.workloads.quantities import mebibytes
    from simulator.scenario import MEM_MB_MAX

    hint = "write 512Mi or 8Gi, up to 1Ei"
    try:
        amount = mebibytes(text)
    except ValueError as error:
        raise InvalidInput(f"--{name} {text}: {error}", hint=hint) from None
    if not 0 < amount <= MEM_MB_MAX:
        raise InvalidInput(f"--{name} {text}: no machine has that", hint=hint)
    return amount


def _machines(inventory: Path, options: dict[str, Any]) -> list[MachineSpec]:
    from beemeshctl.what_if import machines_of
    from simulator.scenario import CPU_M_MAX
    from simulator.spec import MachineSpec

    mem_mb, storage_mb = _size_mb("memory", options["memory"]), _size_mb("disk", options["disk"])
    if not 0.001 <= options["cpu"] <= CPU_M_MAX / 1000:  # neither is nan
        hint = f"write a number up to {CPU_M_MAX // 1000}, such as 4 or 0.5"
        raise InvalidInput(f"--cpu {options['cpu']:g}: no machine has that", hint=hint)
    cpu_m = round(options["cpu"] * 1000)
    return [
        MachineSpec(draft.card, draft.settings, cpu_m, mem_mb, storage_mb, draft.groups)
        for draft in machines_of(inventory)
    ]


def _works(
    manifests: Sequence[str], machines: int, options: dict[str, Any]
) -> tuple[Sequence[Workload], Sequence[Policy]]:
    """What is to run, and what an operator allows of it."""
    from beemeshctl.what_if import wanted_of
    from simulator.operator import Policy, deployment

    if not manifests:
        return [deployment(EXAMPLE, min(machines, EXAMPLE_REPLICAS_MAX))], ()
    wanted = wanted_of(manifests, options["namespace"], allow_unsupported=options["allow_unsupported"])
    for ignored in wanted.ignored:
        click.echo(f"warning: ignored, not supported yet: {ignored}", err=True)
    return wanted.workloads, [Policy(*policy) for policy in wanted.policies]


def _scenario(options: dict[str, Any], has_works: bool) -> Scenario:
    """The scenario of the options, or the one in a file."""
    from simulator.scenario import parse

    words = ("kill", "crash", "wipe", "pause", "partition")
    if options["scenario"] is not None:
        _refuse_beside_scenario()
        return parse(_text_of(options["scenario"]), str(options["scenario"]))
    if options["lasts"] and not any(options[word] for word in words):
        raise InvalidInput("--for says how long a fault lasts, and there is none", hint="name one, such as --kill 30%")
    lines = [f"seed {options['seed']}", f"delay {options['delay']}"]
    lines += [f"loss {options['loss']}"] if options["loss"] else []
    lines += [f"at {APPLY_AT_S:g}s apply all"] if has_works else []
    for word in words:
        for who in options[word]:
            lines.append(_fault_line(word, who, options["lasts"]))
    lines.append(f"end {FAULT_AT_S + duration_s(options['watch']):g}s")
    try:
        scenario = parse("\n".join(lines))
    except InvalidInput as error:  # its line numbers are of a text that nobody wrote
        raise InvalidInput("; ".join(problem.message for problem in error.problems)) from None
    return dataclasses.replace(scenario, steps=tuple(dataclasses.replace(step, line=0) for step in scenario.steps))


def _refuse_beside_scenario() -> None:
    """What a file says alone: an option that is not used would be believed to be."""
    context = click.get_current_context()
    said = [name for name in _SAID_BY_SCENARIOS if context.get_parameter_source(name) is not ParameterSource.DEFAULT]
    if said:
        flags = ", ".join(f"--{'for' if name == 'lasts' else name}" for name in said)
        hint = "write it into the file: lines such as `at 20s kill n0`, `loss 5%`, `delay 1ms..5ms`, `seed 3`, `end 2m`"
        raise InvalidInput(f"--scenario says what happens; leave out {flags}", hint=hint)


def _fault_line(word: str, who: str, lasts: str) -> str:
    if not who or any(character.isspace() or character == "#" for character in who):
        raise InvalidInput(f"--{word} {who!r} says nothing about who is meant", hint=f"write {WHO}")
    lasts = lasts or (PARTITION_LASTS if word in ("pause", "partition") else "")
    tail = f" for {duration_s(lasts):g}s" if lasts else ""
    if word == "partition":
        left, slash, right = who.partition("/")
        return f"at {FAULT_AT_S:g}s cut {left}{f' / {right}' if slash else ''}{tail}"
    return f"at {FAULT_AT_S:g}s {word} {who}{tail}"


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise InvalidInput(f"{path} cannot be read: {reason}") from None


# --- what came of it --------------------------------------------------------------------------------------------------


def _is_failed(report: Report) -> bool:
    return bool(report.violations or report.pending or report.refused)


def _document(report: Report, scenario: Scenario) -> dict[str, Any]:
    return {
        "seed": scenario.seed,
        "seconds": scenario.end_s,
        "recovered": not _is_failed(report),
        "workloads": [
            dataclasses.asdict(story)
            | {"missing_s": _tenths(report.missing_s(story)), "pending": report.pending.get(key)}
            for key, story in sorted(report.works.items())
        ],
        "refused": report.refused,
        "detections": [dataclasses.asdict(each) for each in report.detections],
        "false_deaths": report.false_deaths,
        "violations": report.violations,
        "story": [{"at_s": round(at_s, 1), "text": text} for at_s, text in report.story],
        "trace": report.trace,
    }


def _tenths(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)


def _print_verdict(report: Report, machines: int) -> None:
    from beemeshctl.render import print_table

    click.echo()
    rows = []
    for key, story in sorted(report.works.items()):
        missing_s = report.missing_s(story)
        missing = "for good" if key in report.pending else "-" if missing_s is None else f"{missing_s:.1f} s"
        cells = (story.wanted, story.before, story.lowest, story.running, missing, story.doubled)
        rows.append([key, *(str(cell) for cell in cells)])
    if rows:
        print_table(["WORKLOAD", "WANTED", "BEFORE", "LOWEST", "AFTER", "MISSING", "DOUBLED"], rows)
    for line in _findings(report, machines):
        click.echo(line)


def _findings(report: Report, machines: int) -> list[str]:
    lines = [f"{key} was refused: {reason}" for key, reason in sorted(report.refused.items())]
    lines += [f"{key} stays short: {reason or 'no node told why'}" for key, reason in sorted(report.pending.items())]
    if report.noticed_s is not None:
        lines.append(f"noticed by all others {report.noticed_s:.1f} s after the first fault")
    if report.false_deaths:
        lines.append(f"{report.false_deaths} times a node held another dead that it could reach")
    if report.samples:
        last = report.samples[-1]
        agent_s = max(last.at_s, 1.0) * machines
        rates = f"{last.sent_bytes / agent_s / 1024:.1f} KiB/s in {last.sent / agent_s:.1f} messages/s"
        lines.append(f"each agent sent {rates} on average")
    return [*lines, *report.violations]


def _draw(path: Path, report: Report, title: str) -> None:
    from simulator.plot import page, svg

    try:
        path.write_text(page(report, title) if path.suffix == ".html" else svg(report, title), encoding="utf-8")
    except OSError as error:
        raise BeemeshError(f"{path} cannot be written: {error.strerror}", hint="name another file") from None
    click.echo(f"drawn into {path}", err=True)
