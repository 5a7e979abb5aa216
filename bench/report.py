"""Figures of a comparison as a table, a file and a plot."""

import json
import os
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from pathlib import Path

from cases import Limit, Rival
from sides import Measurement, as_json

REACHED, MISSED = "#1a7f37", "#c4320a"


@dataclass(frozen=True)
class Comparison:
    """The program and a rival, run in turn."""

    case: str
    ours_label: str
    rival: Rival
    ours: list[Measurement]
    theirs: list[Measurement]

    @property
    def ratios(self) -> list[float]:
        """How many times as fast the program is, in each pair."""
        return [ours.samples_per_second / theirs.samples_per_second for ours, theirs in zip(self.ours, self.theirs)]

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)


@dataclass(frozen=True)
class AgainstLimit:
    """The program's steps and the frozen forwards of the same batches."""

    case: str
    limit: Limit
    ours: list[Measurement]
    seconds: list[list[float]]

    @property
    def shares(self) -> list[float]:
        """How many times as long a step takes, in each pair."""
        return [sum(ours.step_seconds) / sum(seconds) for ours, seconds in zip(self.ours, self.seconds)]

    @property
    def share(self) -> float:
        return statistics.median(self.shares)

    @property
    def what(self) -> str:
        return "speech and image forwards" if self.limit.images else "speech forwards"


def median(measurements: list[Measurement], figure: str) -> float:
    return statistics.median(getattr(measurement, figure) for measurement in measurements)


def spread(values: list[float]) -> str:
    """The median, and the range where there are several."""
    shown = f"{statistics.median(values):.2f}"
    return shown if len(values) == 1 else f"{shown} ({min(values):.2f}-{max(values):.2f})"


def verdict(reached: bool) -> str:
    return "reached" if reached else "missed"


def rows(comparisons: list[Comparison], limits: list[AgainstLimit]) -> Iterable[list[str]]:
    yield ["case", "against", "ours, samples/s", "theirs", "ratio", "bar", "padding", "peak memory, GiB", "step / limit"]
    for comparison in comparisons:
        both = (comparison.ours, comparison.theirs)
        limit = next((limit for limit in limits if limit.case == comparison.case), None)
        cell = "-"
        if limit:
            bar = limit.limit.bar
            cell = spread(limit.shares) + (f" <= {bar:g} {verdict(limit.share <= bar)}" if bar else "")
        yield [
            comparison.case,
            comparison.rival.side.label,
            *(f"{median(side, 'samples_per_second'):,.4g}" for side in both),
            spread(comparison.ratios),
            f">= {comparison.rival.bar:g} {verdict(comparison.ratio >= comparison.rival.bar)}",
            " / ".join(f"{median(side, 'padding'):.1%}" for side in both),
            " / ".join(f"{median(side, 'peak_bytes') / 2**30:.2f}" for side in both),
            cell,
        ]


def table(comparisons: list[Comparison], limits: list[AgainstLimit]) -> str:
    """A table in Markdown."""
    head, *body = rows(comparisons, limits)
    widths = [max(len(cell) for cell in column) for column in zip(head, *body)]
    lines = [head, ["-" * width for width in widths], *body]
    return "\n".join("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |" for line in lines)


def processor() -> str:
    names = [line.split(": ", 1)[1] for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else "unknown"


def document(comparisons: list[Comparison], limits: list[AgainstLimit], conditions: dict) -> dict:
    """Everything that was measured."""
    return {
        **conditions,
        "processor": processor(),
        "cores": os.cpu_count(),
        "comparisons": [
            {
                "case": one.case,
                "ours": one.ours_label,
                "against": one.rival.side.label,
                "ratio": one.ratio,
                "bar": one.rival.bar,
                "ratios": one.ratios,
                "runs_of_ours": [as_json(measurement) for measurement in one.ours],
                "runs_of_theirs": [as_json(measurement) for measurement in one.theirs],
            }
            for one in comparisons
        ],
        "limits": [
            {
                "case": one.case,
                "of": one.what,
                "step_over_limit": one.share,
                "bar": one.limit.bar,
                "shares": one.shares,
                "seconds": one.seconds,
            }
            for one in limits
        ],
    }


def bars(comparisons: list[Comparison], limits: list[AgainstLimit]) -> Iterable[tuple[str, str, float]]:
    """Label, figure, and how much of its target each comparison reaches."""
    for one in comparisons:
        figure = f"{one.ratio:.2f} times as fast, target {one.rival.bar:g}"
        yield f"{one.case}: {one.ours_label} against {one.rival.side.label}", figure, one.ratio / one.rival.bar
    for one in limits:
        if one.limit.bar:
            figure = f"{one.share:.3f} times as long, target {one.limit.bar:g}"
            yield f"{one.case}: a step against its {one.what} alone", figure, one.limit.bar / one.share


def plot(comparisons: list[Comparison], limits: list[AgainstLimit]) -> str:
    """A bar for each comparison, in parts of its target."""
    chosen = list(bars(comparisons, limits))
    left, height, wide, top = 20, 52, 640, 56
    scale = wide / max([1.2, *(part for _, _, part in chosen)])
    target, bottom = left + scale, top + height * len(chosen)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide + 2 * left} {bottom + 16}" width="{wide + 2 * left}" '
        f'height="{bottom + 16}" font-family="sans-serif" font-size="13">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{left}" y="26" font-size="16" font-weight="bold">Measured, as a share of its target</text>',
        f'<text x="{target:.1f}" y="46" text-anchor="middle" fill="#444">target</text>',
    ]
    for number, (label, figure, part) in enumerate(chosen):
        y, colour = top + height * number, REACHED if part >= 1 else MISSED
        lines += [
            f'<text x="{left}" y="{y + 16}" fill="#111">{escape(label)}: <tspan fill="{colour}">{escape(figure)}</tspan></text>',
            f'<rect x="{left}" y="{y + 24}" width="{scale * part:.1f}" height="16" fill="{colour}"/>',
        ]
    lines += [f'<path d="M{target:.1f} {top - 6}V{bottom}" stroke="#111" stroke-dasharray="4 3"/>', "</svg>"]
    return "\n".join(lines) + "\n"


def write(folder: Path, comparisons: list[Comparison], limits: list[AgainstLimit], conditions: dict) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(document(comparisons, limits, conditions), indent=1)
    (folder / "bench.json").write_text(text + "\n")
    (folder / "bench.svg").write_text(plot(comparisons, limits))
