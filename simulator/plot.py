"""A picture of what became of a scenario: replicas and machines over time, traffic below, faults as marks. SVG or HTML.

Drawn by hand, since it is three lines and a few marks: a plotting library would weigh more than the simulator.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from simulator.observer import Sample
from simulator.stage import Report

WIDTH, HEIGHT = 960, 420
LEFT, RIGHT, TOP = 64, 936, 48
UPPER, LOWER_TOP, LOWER = 240, 290, 370
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
.mark { stroke: #9b2c2c; stroke-width: 1; stroke-dasharray: 2 3 }
@media (prefers-color-scheme: dark) {
  text { fill: #ddd } .grid { stroke: #444 } .running { stroke: #63b3ed } .machines { stroke: #f6ad55 }
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
        *(_bar(x(at_s), x(at_s + TRAFFIC_STEP_S), rate / most) for at_s, rate in rates),
        "</svg>",
    ]  # fmt: skip
    return "\n".join(parts) + "\n"


def page(report: Report, title: str) -> str:
    """The picture with the story below it, as one HTML file that needs nothing else."""
    return PAGE.format(title=escape(title), picture=svg(report, title), story=escape(report.transcript()))


def _rates(samples: Sequence[Sample]) -> Iterable[tuple[float, float]]:
    """(when, bytes that all agents sent per second from then on), second by second."""
    begin: Sample | None = None
    for each in samples:
        if begin is None:
            begin = each
        elif each.at_s - begin.at_s >= TRAFFIC_STEP_S:
            yield begin.at_s, (each.sent_bytes - begin.sent_bytes) / (each.at_s - begin.at_s)
            begin = each


def _axes(end_s: float, top: int, most: float) -> list[str]:
    parts = [
        f'<path class="axis" d="M{LEFT},{TOP} V{UPPER} H{RIGHT} M{LEFT},{LOWER_TOP} V{LOWER} H{RIGHT}"/>',
        f'<text x="{LEFT - 8}" y="{TOP + 4}" text-anchor="end">{top}</text>',
        f'<text x="{LEFT - 8}" y="{UPPER}" text-anchor="end">0</text>',
        f'<text x="{LEFT - 8}" y="{LOWER_TOP + 4}" text-anchor="end">{most / 1024:.0f}</text>',
        f'<text x="{LEFT}" y="{LOWER_TOP - 8}">traffic of all agents, KiB/s</text>',
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


def _bar(left: float, right: float, part: float) -> str:
    height = (LOWER - LOWER_TOP) * part
    width = max(right - left, 0.5)
    return f'<rect class="traffic" x="{left:.1f}" y="{LOWER - height:.1f}" width="{width:.1f}" height="{height:.1f}"/>'
