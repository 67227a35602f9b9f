"""A picture of what became of a scenario: replicas and machines over time, how long it took to notice what is gone and
to make up for it, messages below, faults as marks. SVG or HTML.

Drawn by hand, since it is three lines and a few marks: a plotting library would weigh more than the simulator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from html import escape

from simulator.observer import Sample
from simulator.stage import Report

WIDTH, HEIGHT = 960, 460
LEFT, RIGHT, TOP = 64, 936, 48
UPPER, NOTICED, MISSING, LOWER_TOP, LOWER = 240, 260, 280, 330, 410
"""Heights, from the top: the end of the upper graph, two spans of time, and the lower graph."""

TRAFFIC_STEP_S = 1.0
TICKS = 8

STYLE = """
text { font: 12px system-ui, sans-serif; fill: #333 }
.title { font-size: 15px; font-weight: 600 }
.axis { stroke: #999; stroke-width: 1; fill: none }
.grid { stroke: #ddd; stroke-width: 1 }
.wanted { stroke: #999; stroke-width: 1.5; stroke-dasharray: 4 3; fill: none }
.running { stroke: #2b6cb0; stroke-width: 2; fill: none }
.machines { stroke: #c05621; stroke-width: 1.5; fill: none }
.traffic { fill: #2b6cb0; opacity: .35 }
.span { stroke-width: 6 } .noticed { stroke: #c05621 } .missing { stroke: #9b2c2c }
.mark { stroke: #9b2c2c; stroke-width: 1; stroke-dasharray: 2 3 }
@media (prefers-color-scheme: dark) {
  text { fill: #ddd } .grid { stroke: #444 } .running { stroke: #63b3ed } .machines, .noticed { stroke: #f6ad55 }
  .mark, .missing { stroke: #fc8181 }
}
"""

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>body {{ font-family: system-ui, sans-serif; max-width: 980px; margin: 2em auto; padding: 0 1em }}
pre {{ overflow-x: auto; line-height: 1.4 }} :root {{ color-scheme: light dark }}</style></head>
<body>{picture}<pre>{story}</pre></body></html>
"""


def svg(report: Report, title: str) -> str:
    """The picture as a document of its own."""
    samples = report.samples
    end_s = max(samples[-1].at_s, 1.0) if samples else 1.0
    top = max([1, *(max(each.wanted, each.running, each.machines) for each in samples)])

    def x(at_s: float) -> float:
        return LEFT + (RIGHT - LEFT) * at_s / end_s

    def y(value: float) -> float:
        return UPPER - (UPPER - TOP) * value / top

    rates = list(_rates(samples))
    most = max([1.0, *(rate for _, rate in rates)])
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        f"<style>{STYLE}</style>",
        f'<text class="title" x="{LEFT}" y="22">{escape(title)}</text>',
        *_axes(end_s, top, most),
        *(f'<line class="mark" x1="{x(at_s):.1f}" y1="{TOP}" x2="{x(at_s):.1f}" y2="{LOWER}"><title>{escape(text)}'
          f"</title></line>" for at_s, text in report.story if text.startswith("> ")),
        _line("wanted", ((x(each.at_s), y(each.wanted)) for each in samples)),
        _line("machines", ((x(each.at_s), y(each.machines)) for each in samples)),
        _line("running", ((x(each.at_s), y(each.running)) for each in samples)),
        *_legend(),
        *_spans(report, x, end_s),
        *(_bar(x(at_s), x(at_s + TRAFFIC_STEP_S), rate / most) for at_s, rate in rates),
        "</svg>",
    ]  # fmt: skip
    return "\n".join(parts) + "\n"


def page(report: Report, title: str) -> str:
    """The picture with the story below it, as one HTML file that needs nothing else."""
    return PAGE.format(title=escape(title), picture=svg(report, title), story=escape(report.transcript()))


def _rates(samples: Sequence[Sample]) -> Iterable[tuple[float, float]]:
    """(when, datagrams that all agents sent per second from then on), second by second."""
    begin: Sample | None = None
    for each in samples:
        if begin is None:
            begin = each
        elif each.at_s - begin.at_s >= TRAFFIC_STEP_S:
            yield begin.at_s, (each.sent - begin.sent) / (each.at_s - begin.at_s)
            begin = each


def _axes(end_s: float, top: int, most: float) -> list[str]:
    parts = [
        f'<path class="axis" d="M{LEFT},{TOP} V{UPPER} H{RIGHT} M{LEFT},{LOWER_TOP} V{LOWER} H{RIGHT}"/>',
        f'<text x="{LEFT - 8}" y="{TOP + 4}" text-anchor="end">{top}</text>',
        f'<text x="{LEFT - 8}" y="{UPPER}" text-anchor="end">0</text>',
        f'<text x="{LEFT - 8}" y="{LOWER_TOP + 4}" text-anchor="end">{most:.0f}</text>',
        f'<text x="{LEFT}" y="{LOWER_TOP - 8}">messages of all agents per second</text>',
    ]
    for number in range(TICKS + 1):
        at_x = LEFT + (RIGHT - LEFT) * number / TICKS
        parts.append(f'<line class="grid" x1="{at_x:.1f}" y1="{TOP}" x2="{at_x:.1f}" y2="{UPPER}"/>')
        parts.append(
            f'<text x="{at_x:.1f}" y="{LOWER + 18}" text-anchor="middle">{end_s * number / TICKS:.0f} s</text>'
        )
    return parts


def _line(name: str, points: Iterable[tuple[float, float]]) -> str:
    """A line in steps: what is true at one sample is true until the next."""
    path, before = [], 0.0
    for number, (at_x, at_y) in enumerate(points):
        if number == 0:
            path.append(f"M{at_x:.1f},{at_y:.1f}")
        elif at_y != before:
            path.append(f"H{at_x:.1f} V{at_y:.1f}")
        before = at_y
    path.append(f"H{RIGHT}")
    return f'<path class="{name}" d="{" ".join(path)}"/>' if len(path) > 1 else ""


def _legend() -> list[str]:
    parts = []
    for number, (name, text) in enumerate(
        (("running", "replicas that run"), ("wanted", "replicas wanted"), ("machines", "agents that run"))
    ):
        at_x = RIGHT - 420 + number * 150
        parts.append(f'<line class="{name}" x1="{at_x}" y1="34" x2="{at_x + 24}" y2="34"/>')
        parts.append(f'<text x="{at_x + 30}" y="38">{text}</text>')
    return parts


def _spans(report: Report, x: Callable[[float], float], end_s: float) -> list[str]:
    """From the first fault on: until all others had noticed what was gone, and until nothing was missing any more."""
    if report.fault_s is None:
        return []
    spans = []
    if report.noticed_s is not None:
        until_s = report.fault_s + report.noticed_s
        spans.append(("noticed", NOTICED, until_s, f"noticed by all others after {report.noticed_s:.1f} s"))
    missing_s = max((report.missing_s(story) or 0.0 for story in report.works.values()), default=0.0)
    if report.pending:
        spans.append(("missing", MISSING, end_s, "replicas are missing to the end"))
    elif missing_s > 0:
        spans.append(("missing", MISSING, report.fault_s + missing_s, f"nothing missing after {missing_s:.1f} s"))
    return [part for span in spans for part in _span(*span, x=x, begin_s=report.fault_s)]


def _span(
    name: str, height: int, until_s: float, text: str, *, x: Callable[[float], float], begin_s: float
) -> list[str]:
    """A bar, and what it says, on the side where there is more room."""
    begin, end = x(begin_s), x(until_s)
    at, anchor = (end + 8, "start") if RIGHT - end >= begin - LEFT else (begin - 8, "end")
    return [
        f'<line class="span {name}" x1="{begin:.1f}" y1="{height}" x2="{max(end, begin + 1):.1f}" y2="{height}"/>',
        f'<text x="{at:.1f}" y="{height + 4}" text-anchor="{anchor}">{text}</text>',
    ]


def _bar(left: float, right: float, part: float) -> str:
    height = (LOWER - LOWER_TOP) * part
    width = max(right - left, 0.5)
    return f'<rect class="traffic" x="{left:.1f}" y="{LOWER - height:.1f}" width="{width:.1f}" height="{height:.1f}"/>'
