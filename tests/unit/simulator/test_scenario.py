"""Scenario files: what they say is understood, and what they cannot mean is refused with its line."""

from __future__ import annotations

import random
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beemesh.errors import InvalidInput
from beemesh.workloads.record import Constraints, JobTerms, Workload
from simulator.operator import deployment
from simulator.plot import page, svg
from simulator.scenario import parse
from simulator.spec import choose, machine
from simulator.stage import Stage

MACHINES = (
    machine("b1", site="berlin", labels={"gpu": "yes"}),
    machine("b2", site="berlin"),
    machine("p1", site="paris"),
    machine("p2", site="paris"),
)


def test_everything_in_a_scenario_is_read() -> None:
    """Machines, sites, chance, and steps in the order of their time."""
    read = parse(
        "nodes a b c   # three\nsite attic a b\nabsent c\nseed 7\nloss 10%\ndelay 1ms..20ms\n"
        "at 20s cut site=attic / c for 5s\nat 1500ms apply web replicas=2 once=yes\nend 2m\n"
    )

    assert [each.name for each in read.machines] == ["a", "b", "c"]
    assert [each.card.site for each in read.machines] == ["attic", "attic", ""]
    assert (read.absent, read.seed, read.loss, read.delay_s) == ({"c"}, 7, 0.1, (0.001, 0.02))
    assert [(step.at_s, step.action, step.who, step.other) for step in read.steps] == [
        (1.5, "apply", "web", ""),
        (20.0, "cut", "site=attic", "c"),
    ]
    assert read.steps[1].lasts_s == 5.0
    assert read.end_s == 120.0


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("node 3", "'node' is no line of a scenario"),
        ("at 3 kill a", "'3' is no duration"),
        ("at 3s explode a", "'explode' is nothing that can happen"),
        ("at 3s kill", "kill wants one word"),
        ("at 3s kill a b", "kill wants one word"),
        ("at 3s cut a b", "cut wants A / B"),
        ("at 3s pause a", "pause wants for DURATION"),
        ("at 3s apply web replica=3", "apply has no option 'replica'"),
        ("at 3s apply web replicas=many", "replicas wants a whole number"),
        ("at 3s expect bliss", "expect wants one of"),
        ("loss 30", "'30' is no share"),
        ("site attic z", "'z' is no node named before"),
        ("nodes 10001", "more than 10000"),
        ("delay 5ms..1ms", "runs backwards"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_line(line: str, wrong: str) -> None:
    """All wrong lines at once, each with its number."""
    with pytest.raises(InvalidInput) as caught:
        parse(f"nodes 2\n{line}\nbroken\n", "my.scenario")

    first, second = caught.value.problems
    assert wrong in first.message
    assert (first.file, first.line, second.line) == ("my.scenario", 2, 3)


@given(st.text(max_size=200))
def test_no_text_breaks_the_reader(text: str) -> None:
    """Whatever is written, it is understood or refused."""
    try:
        parse(f"nodes 2\nat 1s {text}\n{text}")
    except InvalidInput as error:
        assert error.problems


@pytest.mark.parametrize(
    ("selector", "meant"),
    [
        ("all", "b1 b2 p1 p2"),
        ("site=paris", "p1 p2"),
        ("gpu=yes", "b1"),
        ("b*", "b1 b2"),
        ("p1,site=berlin", "b1 b2 p1"),
    ],
)
def test_a_selector_means_machines(selector: str, meant: str) -> None:
    """By place, label, pattern and name."""
    found = choose(selector, MACHINES, random.Random(0))

    assert [MACHINES[index].name for index in found] == meant.split()


def test_a_share_is_drawn_by_chance_and_repeats() -> None:
    """Half of four are two, and the same two for the same seed."""
    drawn = [choose("50%", MACHINES, random.Random(seed)) for seed in (1, 1, *range(20))]

    assert {len(each) for each in drawn} == {2}
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) > 1


def test_whoever_means_nobody_hears_who_there_is() -> None:
    """The error lists sites, labels or names."""
    for selector, known in (("site=rome", "berlin, paris"), ("x1", "b1, b2, p1, p2"), ("rack=1", "no machine has")):
        with pytest.raises(InvalidInput) as caught:
            choose(selector, MACHINES, random.Random(0))
        assert known in caught.value.hint


def test_a_stage_refuses_a_step_about_nobody_before_it_plays() -> None:
    """With the line of the step."""
    with pytest.raises(InvalidInput) as caught:
        Stage(parse("nodes 2\nat 1s kill n7\n"))

    assert caught.value.problems[0].line == 2


def test_a_short_name_means_one_workload_or_is_refused() -> None:
    """`web` is enough while only one is called so; else its namespace, or all of it, says which is meant."""
    works = [deployment("web", 2), msgspec.structs.replace(deployment("web", 1), namespace="lab"), deployment("api", 1)]
    meant = "at 1s apply lab/web replicas=2\nat 1s apply api\nat 5s expect running deployment/lab/web=2 api=1\nend 5s"
    several = "nodes 3\nat 1s apply all\nat 2s apply web\nat 3s expect running web=2\nat 3s kill @runner:web\n"

    report = Stage(parse(f"nodes 3\n{meant}"), works=works).run()
    with pytest.raises(InvalidInput) as caught:
        Stage(parse(f"{several}at 3s delete web", "my.scenario"), works=works)

    assert not report.violations
    assert sorted(report.works) == ["deployment/default/api", "deployment/lab/web"]
    assert [(each.file, each.line) for each in caught.value.problems] == [
        ("my.scenario", line) for line in (3, 4, 5, 6)
    ]
    wrong = "'web' may be any of deployment/default/web, deployment/lab/web"
    assert all(each.message == wrong for each in caught.value.problems)


def test_a_story_has_what_a_person_wants_to_know() -> None:
    """Who died and when it was noticed, what ran before, at worst and after; drawn as a picture as well."""
    stage = Stage(parse("nodes 4\nat 1s apply web replicas=4\nat 5s kill n1\nat 40s expect running web=4\nend 40s"))

    report = stage.run()

    story = report.works["deployment/default/web"]
    assert not report.violations
    assert (story.wanted, story.before, story.lowest, story.running) == (4, 4, 3, 4)
    assert story.short_until_s is not None and 5.0 < story.short_until_s < 30.0
    (noticed,) = report.detections
    assert (noticed.machine, noticed.by) == ("n1", 3)
    assert 5.0 < noticed.first_s <= noticed.last_s < 25.0
    picture = svg(report, "one <dies>")
    assert "one &lt;dies&gt;" in picture
    assert picture.count('class="mark"') == 2
    assert report.transcript().splitlines()[-1] in page(report, "t")


def test_what_is_not_as_expected_is_told() -> None:
    """A wrong expectation is a violation with its moment."""
    steps = "at 1s apply web\nat 4s expect running web=2\nat 4s expect dead n1\n"

    report = Stage(parse(f"nodes 2\n{steps}end 4s")).run()

    assert report.violations == [
        "4.0 s: expect running web=2: 1 of web run",
        "4.0 s: expect dead n1: n0 holds n1 alive",
        "4.0 s: expect dead n1: n1 holds n1 alive",
    ]


def test_the_same_scenario_is_told_the_same_way() -> None:
    """Two playings give one transcript and one trace."""
    text = "nodes 5\nseed 3\nloss 20%\nat 1s apply web replicas=3\nat 5s kill 40% for 10s\nat 8s cut n0 for 5s\nend 60s"

    one, other = Stage(parse(text)).run(), Stage(parse(text)).run()

    assert (one.transcript(), one.trace) == (other.transcript(), other.trace)


def _daemons(**constraints: dict[str, str]) -> Workload:
    return msgspec.structs.replace(
        deployment("each", 0, cpu_m=1000), kind="DaemonSet", constraints=Constraints(**constraints)
    )


def _job(completions: int, parallelism: int = 1, **terms: int) -> Workload:
    return msgspec.structs.replace(
        deployment("sums", completions), kind="Job", restart_policy="Never", job=JobTerms(parallelism, **terms)
    )


def test_a_daemon_is_wanted_on_each_machine_that_it_is_for_and_that_is_up() -> None:
    """A machine that dies takes its wish with it, one that comes back has it again, one without the label never."""
    machines = [machine(name, labels={"disk": "ssd"}) for name in "abc"] + [machine("d")]
    text = "at 1s apply each\nat 10s kill a\nat 20s crash b\nat 30s start a\nend 29s"
    works = [_daemons(node_selector={"disk": "ssd"})]

    killed = Stage(parse(text.replace("at 30s start a\n", "")), machines, works).run()
    back = Stage(parse(text.replace("29s", "40s")), machines, works).run()

    story = killed.works["daemonset/default/each"]
    assert (story.wanted, story.before, story.lowest, story.running) == (2, 3, 2, 2)
    assert (story.short_until_s, killed.pending) == (None, {})
    story = back.works["daemonset/default/each"]
    assert (story.wanted, story.running, back.pending) == (3, 3, {})
    assert story.short_until_s is not None and 30.0 < story.short_until_s < 35.0


def test_a_daemon_that_is_missing_is_missed() -> None:
    """Where there is no room for it, and where nobody is left at all: its record does not name a number."""
    machines = [replace(machine(name), cpu_m=4000 if name != "c" else 500) for name in "abc"]

    crammed = Stage(parse("at 1s apply each\nend 20s"), machines, [_daemons()]).run()
    dark = Stage(parse("at 1s apply each\nat 10s kill all\nend 20s"), machines, [_daemons()]).run()

    story = crammed.works["daemonset/default/each"]
    assert (story.wanted, story.running) == (3, 2)
    assert "CPU" in crammed.pending["daemonset/default/each"]
    assert list(dark.pending) == ["daemonset/default/each"]


def test_a_job_ends_well_and_is_not_missed_between_two_of_its_pods() -> None:
    """Each completion runs for a while, one after the other; its deadline counts from the moment it was applied."""
    text = "nodes 3\nat 1s apply sums\nat 3s loss share=0%\nend 40s"

    report = Stage(parse(text), works=[_job(3, active_deadline_s=100)]).run()

    story = report.works["job/default/sums"]
    assert (story.wanted, story.completed, story.running, story.doubled) == (3, 3, 3, 0)
    assert (story.short_until_s, report.pending) == (None, {})


def test_a_job_under_way_is_not_short_and_one_that_stopped_is() -> None:
    """What counts is whether as many run as may, not how many are done; a deadline that passed is told as reason."""
    under_way = Stage(parse("nodes 3\nat 1s apply sums\nend 25s"), works=[_job(9, 2)]).run()
    dark = Stage(parse("nodes 3\nat 1s apply sums\nat 15s kill all\nend 30s"), works=[_job(9, 2)]).run()
    late = Stage(parse("nodes 3\nat 1s apply sums\nend 40s"), works=[_job(3, active_deadline_s=15)]).run()

    assert under_way.works["job/default/sums"].completed == 4
    assert under_way.pending == {}
    assert list(dark.pending) == ["job/default/sums"]
    assert late.pending["job/default/sums"].startswith("DeadlineExceeded")
