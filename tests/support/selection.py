"""Which tests a run leaves to another one, and the sentence that says so at its end.

- ``slow`` tests take seconds, and a quicker one covers the same kind: ``make test`` leaves them to ``make test-all``.
- With ``--database-tests`` only what touches the database runs, for a run on a second one. Tests ``of_any_database``
  touch it too, but only on their way to what they are about, which no database changes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, Final

import pytest

SLOW: Final = "slow"
NO_DATABASE: Final = "of no database"

_left_out: Counter[str] = Counter()
_of_workers: list[Counter[str]] = []


def sampled(cases: Iterable[Any], *, every: int) -> list[Any]:
    """Return the cases for a ``parametrize``, all of them slow but each ``every``-th."""
    return [
        case if number % every == 0 else pytest.param(case, marks=pytest.mark.slow) for number, case in enumerate(cases)
    ]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("selection")
    group.addoption("--quick", action="store_true", help="leave slow tests out")
    group.addoption("--database-tests", action="store_true", help="leave out what touches no database")


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers."""
    config.addinivalue_line("markers", "slow: takes seconds, and a quicker test covers its kind")
    config.addinivalue_line("markers", "of_any_database: is about what no database changes, whatever fixtures it uses")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect what the options leave out."""
    kept, left_out = [], []
    for item in items:
        if reason := _reason_to_leave(config, item):
            _left_out[reason] += 1
            left_out.append(item)
        else:
            kept.append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept


def _reason_to_leave(config: pytest.Config, item: pytest.Item) -> str:
    if config.getoption("--database-tests") and not touches_database(item):
        return NO_DATABASE
    if config.getoption("--quick") and item.get_closest_marker("slow"):
        return SLOW
    return ""


def touches_database(item: pytest.Item) -> bool:
    """Return whether a test may show something on one database that it does not show on another."""
    if item.get_closest_marker("of_any_database"):
        return False
    return bool(item.get_closest_marker("django_db") or {"db", "transactional_db"} & set(_fixtures(item)))


def _fixtures(item: pytest.Item) -> list[str]:
    return getattr(item, "fixturenames", [])


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Tell the process that prints what this one left out; that all tests are left out is not a failure."""
    if output := getattr(session.config, "workeroutput", None):
        output["left_out"] = dict(_left_out)
    elif exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and session.config.getoption("--database-tests"):
        session.exitstatus = pytest.ExitCode.OK


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: object) -> None:
    """Hear what a worker left out; all of them collect the same tests."""
    _of_workers.append(Counter(getattr(node, "workeroutput", {}).get("left_out", {})))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many tests were left out, and where they run."""
    left_out = _left_out or next(iter(_of_workers), Counter())
    if slow := left_out[SLOW]:
        terminalreporter.write_line(f"{slow} slow tests are left to make test-all.")
    if others := left_out[NO_DATABASE]:
        terminalreporter.write_line(f"{others} tests of no database are left to the run on SQLite.")
