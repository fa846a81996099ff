"""The documentation says what the code does."""

from __future__ import annotations

import json
import pkgutil
import re
from dataclasses import fields
from pathlib import Path

import pytest

from coderepos.api.statuses import STATUS
from coderepos.api.urls import urlpatterns
from coderepos.conf import SETTINGS, AppSettings
from coderepos.exceptions import error_classes
from coderepos.git.substitutions import MEANINGS
from coderepos.management.commands.coderepos_rekey import EXIT_KEY_UNAVAILABLE, EXIT_ROWS_LEFT
from coderepos.queue_timeouts import least_retry_seconds, least_timeout_seconds

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted(DOCS.rglob("*.md"))]


def test_settings_page_has_every_key_with_its_default_and_its_meaning() -> None:
    """The table has one row per key, in the order of the fields, that begins with what the field says."""
    lines = [line for line in (DOCS / "settings.md").read_text().splitlines() if re.match(r"\| `[A-Z_]+` ", line)]
    defaults = {
        field.name: json.dumps(field.default) if isinstance(field.default, str) else repr(field.default)
        for field in fields(AppSettings)
    }
    expected = [f"| `{key}` | `{defaults[key]}` | {setting.meaning}" for key, setting in SETTINGS.items()]

    assert [line[: len(row)] for line, row in zip(lines, expected, strict=True)] == expected


@pytest.mark.parametrize("page", ["README.md", "docs/mounting.md"])
def test_times_of_the_queue_are_those_that_the_checks_ask_for(page: str) -> None:
    """Whoever copies a printed cluster gets times that fit any number of workers, the same on every page."""
    printed = re.findall(r'"timeout": (\d+),[^\n]*\s*"retry": (\d+),', (ROOT / page).read_text())
    timeout = least_timeout_seconds(AppSettings.GIT_CLONE_TIMEOUT)
    of_the_host = {("60", "90")}  # where a cluster of its own works for the app

    assert {*printed} - of_the_host == {(f"{timeout:g}", f"{least_retry_seconds(timeout, workers=1):g}")}


def test_api_page_has_every_endpoint() -> None:
    """Every address of the app stands in the page, and no other."""
    text = (DOCS / "api.md").read_text()
    documented = set(re.findall(r"^\| `[A-Z]+ /([^`]*)` \|", text, re.MULTILINE))
    served = {re.sub(r"<str:(\w+)>", r"{\1}", str(pattern.pattern)) for pattern in urlpatterns}

    assert documented == served


def test_api_page_has_every_error() -> None:
    """Each code is explained: with the status of the answer, or with whether the job is tried again."""
    text = (DOCS / "api.md").read_text()
    statuses: dict[str, int] = {}
    for status, cell in re.findall(r"^\| ([\d, ]+) \| (`[^|]+`) \|", text, re.MULTILINE):
        codes = re.findall(r"\w+", cell)
        numbers = status.split(", ") if "," in status else [status] * len(codes)
        statuses |= zip(codes, map(int, numbers), strict=True)
    retried = {
        code: answer == "yes"
        for cell, answer in re.findall(r"^\| (`[^|]+`) \| (yes|no) \|", text, re.MULTILINE)
        for code in re.findall(r"\w+", cell)
    }

    assert {code: status for code, status in statuses.items() if code in STATUS}.items() <= STATUS.items()
    assert error_classes().keys() <= statuses.keys() | retried.keys()
    del retried["sandbox_missing"]  # the sweep finds it after the job: worth a request, and nothing tries it again
    assert {code: error_classes()[code].retryable for code in retried} == retried


def test_exit_statuses_of_a_rotation_are_the_documented_ones() -> None:
    """The table names the statuses that the command ends with, for scripts to tell them apart."""
    rows = re.findall(r"^\| (\d) \| (\w+)", (DOCS / "encryption.md").read_text(), re.MULTILINE)

    assert rows == [("0", "Every"), (str(EXIT_ROWS_LEFT), "Some"), (str(EXIT_KEY_UNAVAILABLE), "A")]


def test_every_reason_of_a_substitution_is_explained() -> None:
    """The table and the sentences of the admin have the same reasons, and no clone counts for another one."""
    rows = re.findall(r"^\| `([a-z_]+)` \|", (DOCS / "how-it-works.md").read_text(), re.MULTILINE)
    engine = "".join(path.read_text() for path in (ROOT / "coderepos/git").rglob("*.py"))
    counted = re.findall(r'(?:\badd_difference\(tree, |substitutions\.add(?:_unnamed)?\(\s*)"([a-z_]+)"', engine)

    assert set(rows) == set(MEANINGS) == set(counted)


def test_links_between_pages_lead_somewhere() -> None:
    """Relative links name files, and anchors name headings."""
    for page in PAGES:
        for path, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", page.read_text()):
            target = (page.parent / path) if path else page
            assert target.exists(), f"{page.name}: {path}"
            if anchor:
                headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
                assert anchor in {re.sub(r"[^\w -]", "", h).strip().lower().replace(" ", "-") for h in headings}


@pytest.mark.parametrize("index", [ROOT / "README.md", DOCS / "README.md"], ids=["README", "docs/README"])
def test_every_page_is_in_the_index(index: Path) -> None:
    """Both lists of the documentation lead to each page."""
    linked = {(index.parent / path).resolve() for path in re.findall(r"\]\(([\w./-]+\.md)\)", index.read_text())}

    assert {*PAGES} - {ROOT / "README.md", DOCS / "README.md"} <= linked


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_name_what_is_there(page: Path) -> None:
    """Every file, directory and dotted name of the code that a page names exists."""
    text = page.read_text()

    paths = re.findall(r"`((?:coderepos|config|docs|tests)/[\w./-]*)", text)
    assert [path for path in paths if not (ROOT / path).exists()] == []
    modules = re.findall(r"`([\w/]+\.py)`", text)
    assert [module for module in modules if not [*ROOT.glob(module), *(ROOT / "coderepos").rglob(module)]] == []
    names = re.findall(r"`(coderepos(?:\.(?![EW]\d|\w+_coderepository)\w+)+)[`(]", text)
    assert [name for name in names if not is_importable(name)] == []


def is_importable(name: str) -> bool:
    """Return whether a dotted name leads to a module, or to something in one."""
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


def test_map_of_the_code_has_every_package() -> None:
    """The table of rooms names each package of the app and of the engine, and nothing that is not there."""
    table = (ROOT / "CONTRIBUTING.md").read_text().partition("## The rooms")[2].partition("\nImports point")[0]
    cells = "".join(re.findall(r"^\| ([^|]*) \|", table, re.MULTILINE))
    app = ROOT / "coderepos"
    packages = {
        f"{marker.parent.relative_to(app)}/"
        for marker in [*app.glob("*/__init__.py"), *app.glob("git/*/__init__.py")]
        if marker.parent.name != "migrations"
    }

    assert packages == set(re.findall(r"`([\w/]+/)`", cells))
    assert all((app / name).exists() for name in re.findall(r"`([\w/.]+)`", cells))


def test_threats_name_tests_that_exist() -> None:
    """Every answer to a threat is held by a test of that name."""
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (DOCS / "threats.md").read_text())
    assert len(named) > 30

    missing = [
        f"{path}::{name}"
        for path, name in named
        if not re.search(rf"^\s*(async )?def {name}\(", (ROOT / path).read_text(), re.MULTILINE)
    ]

    assert not missing
