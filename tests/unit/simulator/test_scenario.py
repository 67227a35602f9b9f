"""Scenario files: what they say is understood, and what they cannot mean is refused with its line."""

from __future__ import annotations

import random
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given, settings
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
    assert (dict(read.absent), read.seed, read.loss, read.delay_s) == ({"c": 3}, 7, 0.1, (0.001, 0.02))
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
        ("at 3s expect running", "expect running wants workloads and how many of each"),
        ("at 3s expect running web=x", "expect running wants workloads and how many of each"),
        ("at 3s expect never-below web=x", "expect never-below wants workloads and the least of each"),
        ("at 3s expect alive some", "expect alive wants one number"),
        ("at 3s expect dead", "expect dead wants who is held dead"),
        ("at 3s expect empty", "expect empty wants which machines"),
        ("at 3s expect refused", "expect refused wants which workloads"),
        ("at 3s expect agree web", "expect agree wants nothing behind it"),
        ("at 3s slow n0 by=nan", "slow wants by=FACTOR above 0"),
        ("at 3s slow n0 by=0", "slow wants by=FACTOR above 0"),
        ("at 3s apply web for 5s", "apply cannot be for a while"),
        ("at 3s kill n0 for 0s", "for wants a time above 0"),
        ("at 3s heal n0", "heal is for everybody"),
        ("at 3s apply web once=perhaps", "once wants yes or no"),
        ("at 3s apply web replicas=99999999", "more than 10000"),
        ("at 3s apply web memory=99999999999999Ei", "more than there is anywhere"),
        ("at 3s apply web memory=9Ei", "no amount that a replica may need"),
        ("at 3s apply web cpu=-1", "no amount that a replica may need"),
        ("nodes a a", "'a' is named twice"),
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


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("at 1s kill n7", "no machine is meant by 'n7'"),
        ("at 1s kill @x", "'@x' means nobody"),
        ("at 1s kill @boss:web", "'@boss:web' means nobody"),
        ("at 1s pause @runner:wbe for 1s", "nothing applies a workload 'wbe'"),
        ("at 1s cut @steward:wbe / n0", "nothing applies a workload 'wbe'"),
        ("at 1s apply web via=n7", "no machine is meant by 'n7'"),
        ("at 1s apply web,api", "there is no workload 'web,api'"),
        ("at 1s apply all", "there are no manifests"),
        ("at 1s delete wbe", "nothing applies a workload 'wbe'"),
        ("at 1s expect empty typo", "no machine is meant by 'typo'"),
        ("at 1s expect dead n0 typo", "no machine is meant by 'typo'"),
        ("at 1s expect running wbe=0", "nothing applies a workload 'wbe'"),
        ("at 1s expect never-below wbe=0", "nothing applies a workload 'wbe'"),
        ("at 1s expect never-doubled nosuch", "nothing applies a workload 'nosuch'"),
        ("at 1s expect refused nosuch", "nothing applies a workload 'nosuch'"),
        ("absent nobody", "absent names 'nobody'"),
    ],
)
def test_a_stage_refuses_a_step_about_nobody_before_it_plays(line: str, wrong: str) -> None:
    """With the line of the step, and its file."""
    with pytest.raises(InvalidInput) as caught:
        Stage(parse(f"nodes 2\n{line}\nat 1s apply web\n", "my.scenario"))

    (problem,) = caught.value.problems
    assert wrong in problem.message
    assert (problem.file, problem.line) == ("my.scenario", 2)


SELECTORS = ("n0", "n1,n0", "all", "50%", "70%", "@runner:web", "@steward:web", "@x", "typo", "n1")
NAMES = ("web", "api", "typo", "deployment/default/web", "a,b", "all")
STEPS = (
    *(f"{action} WHO" for action in ("kill", "crash", "wipe", "start", "leave", "pause", "drain", "uncordon", "cut")),
    *("cut WHO / WHO", "cut-one-way WHO / WHO", "heal", "loss share=50%", "slow WHO by=2", "slow WHO by=nan"),
    *("skew WHO by=-1s", "apply NAME", "apply NAME replicas=2 via=WHO", "apply NAME once=yes", "delete NAME via=WHO"),
    *("drain WHO force=yes", "expect running NAME=1", "expect never-below NAME=x", "expect dead WHO", "expect dead"),
    *("expect empty WHO", "expect alive 2", "expect never-doubled NAME", "expect refused NAME", "expect single"),
)


@st.composite
def _steps(draw: st.DrawFn) -> str:
    text = draw(st.sampled_from(STEPS)) + draw(st.sampled_from(("", "", " for 1s")))
    for placeholder, meant in (("WHO", SELECTORS), ("NAME", NAMES)):
        while placeholder in text:
            text = text.replace(placeholder, draw(st.sampled_from(meant)), 1)
    return text


@settings(max_examples=60, deadline=None)
@given(st.lists(_steps(), max_size=3))
def test_what_is_not_refused_plays(steps: list[str]) -> None:
    """Whatever steps are made of known words: they are refused before anything runs, or play to the end."""
    lines = [f"at {1 + number}s {step}" for number, step in enumerate(steps)]
    try:
        stage = Stage(parse("\n".join(["nodes 2", "at 500ms apply web", *lines, "end 4s"])))
    except InvalidInput as error:
        assert error.problems
    else:
        assert stage.run().samples


def test_nobody_just_now_is_told() -> None:
    """A selector whose machine is known only when its step comes may mean nobody then: no expectation holds of them."""
    steps = "at 1s apply web replicas=0\nat 3s kill @runner:web\nat 3s expect dead @runner:web\nat 4s kill all\n"

    report = Stage(parse(f"nodes 2\n{steps}at 5s expect alive 2\nend 5s")).run()

    assert (3.0, "@runner:web is nobody just now") in report.story
    assert report.violations == [
        "3.0 s: expect dead @runner:web: @runner:web is nobody just now",
        "5.0 s: expect alive 2: nobody is up to see anybody",
    ]


@pytest.mark.parametrize(
    ("sides", "sizes"),
    [
        ("50% / 50%", (3, 3)),
        ("30% / 70%", (2, 4)),
        ("50% / n0,n1", (3, 2)),
        ("n0 / 100%", (1, 5)),
        ("34%", (2, 4)),
        ("@runner:web / all", (1, 5)),
        ("all / @runner:web", (5, 1)),
        ("n0 / @runner:none", None),
        ("@runner:none", None),
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_the_sides_of_a_cut_share_no_machine(sides: str, sizes: tuple[int, int] | None, seed: int) -> None:
    """A share is drawn from what the other side leaves; where a side is nobody just then, nobody is parted."""
    works = "at 1s apply web\nat 1s apply none replicas=0\n"
    stage = Stage(parse(f"nodes 6\nseed {seed}\n{works}at 3s cut-one-way {sides}\nend 3s"))

    stage.run()

    pairs = frozenset[tuple[int, int]]().union(*stage.world.faults.cuts.values())
    left, right = {source for source, _ in pairs}, {target for _, target in pairs}
    assert not left & right
    assert (len(left), len(right)) == (sizes or (0, 0))


def test_faults_that_overlap_end_each_at_its_own_time() -> None:
    """Loss, slowness, cuts and kills: the end of one leaves the others; what began last counts until it ends."""
    text = (
        "nodes 4\nloss 1%\n"
        "at 1s loss share=50% for 10s\nat 2s loss share=90% for 20s\nat 5s loss share=10% for 1s\n"
        "at 1s slow n0 by=2 for 10s\nat 2s slow n0 by=3 for 2s\nat 2s slow n0,n1 by=5 for 20s\n"
        "at 1s cut n0 for 20s\nat 2s cut n1 / n2 for 2s\n"
        "at 1s kill n3 for 4s\nat 2s kill n3 for 20s\nat 3s kill n2 for 1s\nat 3500ms start n2\n"
        "at 3600ms kill n2\nat 8s start n2\nat 9s kill n2 for 1s\nend 25s"
    )
    seen: dict[float, tuple[object, ...]] = {}

    def look(at_s: float) -> None:
        faults, machines = stage.world.faults, stage.world.machines
        cut = (not faults.reaches(0, 1), not faults.reaches(1, 2))
        seen[round(at_s, 1)] = (faults.loss, dict(faults.slow), cut, [each.is_up for each in machines[2:]])

    stage = Stage(parse(text), passed=look)
    stage.run()

    assert seen[3.0] == (0.9, {0: 5.0, 1: 5.0}, (True, True), [True, False])
    assert seen[5.5] == (0.1, {0: 5.0, 1: 5.0}, (True, False), [False, False])
    assert seen[7.0] == (0.9, {0: 5.0, 1: 5.0}, (True, False), [False, False])
    assert seen[12.0] == (0.9, {0: 5.0, 1: 5.0}, (True, False), [True, False])
    assert seen[21.5] == (0.9, {0: 5.0, 1: 5.0}, (False, False), [True, False])
    assert seen[24.0] == (0.01, {}, (False, False), [True, True])


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
    assert f"noticed by all others after {noticed.last_s - 5.0:.1f} s" in picture
    assert f"nothing missing after {story.short_until_s - 5.0:.1f} s" in picture
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
