"""Measures calls, and prints what they cost as Markdown."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings
from django.db import transaction
from django.test.utils import CaptureQueriesContext, override_settings

from coderepos import services
from coderepos.services.disk import this_machine
from tests.load import plans, sandboxes
from tests.load.calls import Call, admin_calls, api_calls, empty_call, work_calls
from tests.load.filling import Sizes, fill
from tests.support.database import connection


@dataclass(frozen=True)
class Cost:
    """What one call takes."""

    name: str
    p50_ms: float
    ratio: float
    """To an empty view, called in turn with it."""

    recorder: plans.Recorder


def print_calls(sizes: Sizes, runs: int) -> None:
    """Fill the database, and print a table with every call."""
    started = time.monotonic()
    filled = fill(sizes)
    print(
        f"{sizes.repositories:,} repositories, {sizes.jobs:,} jobs, {sizes.entries:,} entries of the audit trail, "
        f"filled in {time.monotonic() - started:.1f} s; medians of {runs}\n\n"
        "| | queries | p50 ms | × an empty view | plan node with most rows |\n| --- | --: | --: | --: | --- |"
    )
    empty = empty_call(filled)
    for call in (empty, *api_calls(filled), *work_calls(filled)):
        _print(_measured(call, empty, runs))
    for page, calls in _by_page(admin_calls(filled)).items():
        _print_slowest(page, [_measured(call, empty, max(3, runs // 5)) for call in calls])


def _by_page(calls: Iterable[Call]) -> dict[str, list[Call]]:
    pages: dict[str, list[Call]] = {}
    for call in calls:
        pages.setdefault(call.page, []).append(call)
    return pages


def _print_slowest(page: str, costs: list[Cost]) -> None:
    _print(costs[0])
    if len(costs) > 1:
        slowest = max(costs[1:], key=lambda cost: cost.p50_ms)
        _print(Cost(f"… slowest of {len(costs) - 1} more: {slowest.name}", *list(vars(slowest).values())[1:]))


def _print(cost: Cost) -> None:
    faults = sorted({fault for one in cost.recorder.statements for fault in one.faults})
    print(
        f"| {cost.name} | {len(cost.recorder.statements)} | {cost.p50_ms:.1f} | {cost.ratio:.1f} "
        f"| {cost.recorder.worst_node}{'; **' + '; '.join(faults) + '**' if faults else ''} |",
        flush=True,
    )


def _measured(call: Call, empty: Call, runs: int) -> Cost:
    with plans.recorded() as recorder:
        _seconds(call)
    taken, of_empty = zip(*((_seconds(call), _seconds(empty)) for _ in range(runs)), strict=True)
    p50 = statistics.median(taken)
    return Cost(call.name, 1000 * p50, p50 / statistics.median(of_empty), recorder)


def _seconds(call: Call) -> float:
    if not call.changes:
        return _timed(call)
    with transaction.atomic(using=connection.alias):
        seconds = _timed(call)
        transaction.set_rollback(True, using=connection.alias)
    return seconds


def _timed(call: Call) -> float:
    started = time.perf_counter()
    call.run()
    return time.perf_counter() - started


def print_sweeps(sandboxes_here: int, runs: int) -> None:
    """Print what a sweep takes in memory and on the disk; all repositories are turned into clones of this machine."""
    for directory in ("/dev/shm", tempfile.gettempdir()):
        with tempfile.TemporaryDirectory(dir=directory, prefix="coderepos-load-") as base:
            _print_sweep(Path(base) / "repos", directory, sandboxes_here, runs)


def _print_sweep(root: Path, directory: str, sandboxes_here: int, runs: int) -> None:
    with override_settings(CODEREPOS={**settings.CODEREPOS, "SANDBOX_BASE_PATH": str(root)}):
        this_machine.prepare_root(services.worker.register_node())
        count = sandboxes.publish(sandboxes_here)
        with CaptureQueriesContext(connection) as queries:
            said = services.worker.sweep()
        assert said == "0 removed, 0 missing, 0 found again", said
        sweep = Call("sweep", services.worker.sweep)
        p50_ms = 1000 * statistics.median(_timed(sweep) for _ in range(runs))
        print(f"| sweep of {count:,} sandboxes in {directory} | {len(queries)} | {p50_ms:,.0f} | | |", flush=True)
