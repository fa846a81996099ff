"""Print the tables of ``docs/performance.md`` from what :mod:`tests.benchmarks.clone_vs_git` saved.

::

    python -m tests.benchmarks.tables FILE [FILE …]
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.clone_vs_git import median

COMPARED = {"probe": "probe", "depth 1": "clone, depth 1", "full": "clone, full"}
TIMED = COMPARED | {name: name for name in ("git, depth 1", "git, full", "dulwich, depth 1", "dulwich, full")}
OTHERS = {
    "depth 1 : dulwich": ("clone, depth 1", "dulwich, wall"),
    "full : dulwich": ("clone, full", "dulwich, wall"),
    "exchange : curl": ("exchange of a probe", "curl, wall"),
}


PHASES = ("scan", "resolve", "checkout", "index", "sync")


def main(*files: str) -> int:
    """Print the tables for the repositories of all files, in their order."""
    results = {name: result for file in files for name, result in json.loads(Path(file).read_text()).items()}
    for heads, row in (
        (("", "MB, full", "objects", *(f"{one} : git" for one in COMPARED), *OTHERS), _ratios),
        (("seconds, wall / CPU", *TIMED, "peak MB, full: fetch, build", "git's index-pack"), _seconds),
        (("ms, depth 1 / full", *PHASES, "before and after"), _phases),
    ):
        print(f"| {' | '.join(heads)} |")
        print(f"| --- |{' --: |' * (len(heads) - 1)}")
        for name, result in results.items():
            print(f"| {name.removesuffix('.git')} | {' | '.join(row(result))} |")
        print()
    return 0


def _ratios(result: Mapping[str, Any]) -> list[str]:
    """Return ratios of wall clocks, and after a slash of processor times."""
    full, ratios = result["figures"]["clone, full"], result["ratios"]
    return [
        f"{median(full, 'received_bytes') / 10**6:.1f}",
        f"{full[-1]['objects']:,}",
        *(f"{ratios[one]['git, wall']:.2f} / {ratios[one]['git, cpu']:.2f}" for one in COMPARED.values()),
        *(f"{ratios[one][kind]:.2f}" if kind in ratios[one] else "" for one, kind in OTHERS.values()),
    ]


def _seconds(result: Mapping[str, Any]) -> list[str]:
    """Return medians of wall clock and processor time, and peaks of memory."""
    figures = result["figures"]
    times = [
        [f"{median(figures[one], kind):.2f}" for kind in ("wall_seconds", "cpu_seconds")] if one in figures else []
        for one in TIMED.values()
    ]
    peaks = [_peak_mb(figures["clone, full"], child) for child in ("fetch", "build")]
    return [*map(" / ".join, times), ", ".join(peaks), _peak_mb(figures["git, full"], "index-pack")]


def _peak_mb(runs: Sequence[Mapping[str, Any]], process: str) -> str:
    return f"{max(one['peak_mb'].get(process, 0) for one in runs):.0f}"


def _phases(result: Mapping[str, Any]) -> list[str]:
    """Return how long each phase of the build child took, and what is left of the whole clone."""
    columns = []
    for subject in ("clone, depth 1", "clone, full"):
        runs = result["figures"][subject]
        phases = [median([one["phases"] for one in runs], phase) for phase in PHASES]
        columns.append([*phases, median(runs, "wall_seconds") - sum(phases)])
    return [" / ".join(f"{1_000 * seconds:.0f}" for seconds in pair) for pair in zip(*columns, strict=True)]


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
