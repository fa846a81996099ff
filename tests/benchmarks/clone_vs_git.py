"""Race the pipeline against ``git clone`` and ``dulwich.porcelain.clone`` over loopback, in turn, in one run.

::

    python -m tests.benchmarks.clone_vs_git --repo PATH [--repo PATH …] [--runs 5] [--json FILE]

``PATH`` is a bare repository; without any, repositories of known shapes are generated. ``git http-backend`` serves all
of them. Absolute times of a noisy machine say little: the table's last columns are ratios of medians.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.benchmarks.generated import generate, growing
from tests.benchmarks.subjects import SUBJECTS
from tests.support.servers.git_http_backend import GitServer

ROOT = Path(__file__).resolve().parents[2]
RIVALS = {
    "probe": {"git": "git, depth 1", "dulwich": "dulwich, depth 1"},
    "clone, depth 1": {"git": "git, depth 1", "dulwich": "dulwich, depth 1"},
    "clone, full": {"git": "git, full", "dulwich": "dulwich, full"},
    "exchange of a probe": {"curl": "curl, the same bytes"},
}
RATIOS = (("git", "wall"), ("git", "cpu"), ("dulwich", "wall"), ("curl", "wall"))


def main() -> int:
    """Measure, and print a table and JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repo", action="append", type=Path, default=[], help="bare repository; may be repeated")
    parser.add_argument("--runs", type=int, default=5, help="measured runs of each subject, after one that is not")
    parser.add_argument("--growth", action="store_true", help="measure generated repositories of 1, 10, 50 and 100 MB")
    parser.add_argument("--without-dulwich", action="store_true", help="leave out dulwich's own clone, which is slow")
    parser.add_argument("--folder", type=Path, help="existing folder to work in; what is made there stays")
    parser.add_argument("--json", type=Path, help="file for all figures")
    options = parser.parse_args()
    for path in options.repo:
        if not (path / "objects").is_dir():
            parser.error(f"{path} is no bare repository")
    subjects = [name for name in SUBJECTS if not (options.without_dulwich and name.startswith("dulwich"))]
    results = {}
    with ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="coderepos-bench-")))
        stack.callback(subprocess.run, ["chmod", "-R", "u+w", folder], check=True)
        for path in _repositories(options, folder):
            figures = measure(path.resolve(), subjects, options.runs, folder)
            results[path.name] = {"figures": figures, "ratios": ratios(figures)}
            print_table(path.name, figures)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))
    else:
        print(json.dumps(results))
    return 0


def _repositories(options: argparse.Namespace, folder: Path) -> Iterator[Path]:
    given: Iterable[Path] = options.repo
    if options.growth:
        given = growing(folder)
    elif not options.repo:
        given = generate(folder)
    yield from given


def measure(path: Path, subjects: list[str], runs: int, folder: Path) -> dict[str, Any]:
    """Return the figures of all runs of each subject, run in turn: A B C A B C.

    Each starts with nothing left to write: our clone ends with ``syncfs``, which would write what others left as well.
    All clones stay in ``folder`` until the end: for minutes after many files were removed, ext4 without a journal
    takes thirty times as long to make a new one (``recently_deleted`` in fs/ext4/ialloc.c of Linux).
    """
    figures: dict[str, Any] = {subject: [] for subject in subjects}
    with GitServer(path.parent) as server:
        for number in range(runs + 1):
            for subject in subjects:
                os.sync()
                sent_bytes = server.sent_bytes
                one = _run(subject, server.url(path.name), folder)
                one["sent_bytes"] = server.sent_bytes - sent_bytes
                if number:
                    figures[subject].append(one)
    return figures


def _run(subject: str, url: str, folder: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.benchmarks.subjects", subject, url, tempfile.mkdtemp(dir=folder)]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def median(figures: list[dict[str, Any]], name: str) -> float:
    """Return the median of one figure."""
    return float(statistics.median(one[name] for one in figures))


def print_table(name: str, figures: dict[str, Any]) -> None:
    """Print one repository's table, in Markdown."""
    print(f"\n### {name}\n")
    heads = ["", "wall s", "CPU s", "MB on the wire", "peak MB", *(f": {rival}, {kind}" for rival, kind in RATIOS)]
    print(f"| {' | '.join(heads)} |")
    print("| --- " * len(heads) + "|")
    for subject, runs in figures.items():
        wall, cpu = median(runs, "wall_seconds"), median(runs, "cpu_seconds")
        peaks = ", ".join(f"{child.rsplit('.', 1)[-1]} {peak:g}" for child, peak in runs[-1]["peak_mb"].items())
        told = ratios(figures).get(subject, {})
        cells = [f"{told[key]:.2f}" if (key := f"{rival}, {kind}") in told else "" for rival, kind in RATIOS]
        wire_mb = median(runs, "sent_bytes") / 10**6
        print(f"| {subject} | {wall:.2f} | {cpu:.2f} | {wire_mb:.1f} | {peaks} | {' | '.join(cells)} |", flush=True)


def ratios(figures: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return the ratios of medians by subject, then by rival and kind."""
    found: dict[str, dict[str, float]] = {}
    for subject, rivals in RIVALS.items():
        for rival, kind in RATIOS:
            other, name = rivals.get(rival), f"{kind}_seconds"
            if subject in figures and other in figures:
                ratio = median(figures[subject], name) / median(figures[other], name)
                found.setdefault(subject, {})[f"{rival}, {kind}"] = round(ratio, 3)
    return found


if __name__ == "__main__":
    sys.exit(main())
