"""The files for deploying name what is there, and their times fit each other."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.core.management import get_commands, load_command_class
from packaging.requirements import Requirement

from coderepos.conf import SETTINGS, AppSettings
from config import settings as host_settings

DEPLOY = Path(__file__).resolve().parent.parent / "docs/deploy"
UNITS = sorted(DEPLOY.glob("*.service"))
OF_GUNICORN = {"FORWARDED_ALLOW_IPS"}


def unit(name: str) -> dict[str, list[str]]:
    """Return the values of each key of a unit."""
    text = (DEPLOY / f"coderepos-{name}.service").read_text().replace("\\\n", "")
    values: dict[str, list[str]] = {}
    for key, value in re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE):
        values.setdefault(key, []).append(value)
    return values


def compose() -> dict[str, Any]:
    """Return the services of the compose file."""
    services: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    return services


def pods() -> dict[str, Any]:
    """Return the specification of each kind's pod in the manifest."""
    documents = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
    return {one["metadata"]["name"]: one["spec"]["template"]["spec"] for one in documents if "template" in one["spec"]}


def commands() -> dict[str, list[str]]:
    """Return every command line that runs something of ours."""
    found = {f"systemd {name}": shlex.split(unit(name)["ExecStart"][0]) for name in ("web", "worker")}
    found |= {f"compose {name}": one["command"] for name, one in compose().items() if "command" in one}
    found |= {f"kubernetes {name}": pod["containers"][0]["args"] for name, pod in pods().items()}
    image = re.findall(r"^CMD (\[.*\])$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    found["image"] = yaml.safe_load(image[0])
    return found


def variables() -> Iterator[str]:
    """Yield the name of every environment variable."""
    yield from re.findall(r"^(\w+)=", (DEPLOY / "coderepos.env").read_text(), re.MULTILINE)
    for name in ("web", "worker"):
        yield from (value.partition("=")[0] for value in unit(name).get("Environment", []))
    yield from (name for key, one in compose().items() if key != "database" for name in one.get("environment", ()))
    for pod in pods().values():
        yield from (one["name"] for one in pod["containers"][0].get("env", ()))


def stop_seconds(command: list[str], option: str) -> int:
    """Return the value of an option that is written ``--option=1`` or ``--option 1``."""
    found = re.search(rf"--{option}[= ](\d+)", " ".join(command))
    assert found, command
    return int(found[1])


@pytest.mark.parametrize("where", sorted(commands()))
def test_commands_and_their_options_exist(where: str) -> None:
    """Commands of ours are parsed by themselves, web servers are asked for their help."""
    line = commands()[where]
    if "manage.py" in line:
        name, *options = line[line.index("manage.py") + 1 :]
        load_command_class(get_commands()[name], name).create_parser("manage.py", name).parse_args(options)
    else:
        done = [sys.executable, "-m", "gunicorn", *line[1:], "--check-config"]
        environment = {"DJANGO_SETTINGS_MODULE": "tests.settings"}
        checked = subprocess.run(
            done, cwd=DEPLOY.parents[1], env=environment, capture_output=True, text=True, timeout=60
        )
        assert checked.returncode == 0, checked.stderr


def test_variables_are_ones_that_are_read() -> None:
    """A misspelt name would be an empty setting."""
    source = Path(host_settings.__file__).read_text()
    of_the_host = set(re.findall(r'environment\.\w+\("([A-Z_]+)"', source))

    assert set(variables()) <= SETTINGS.keys() | of_the_host | OF_GUNICORN
    assert {"SECRET_KEY", "DATABASE_URL", "MASTER_ENCRYPTION_KEY", "NODE_ID", "SANDBOX_BASE_PATH"} <= set(variables())


def test_what_kills_waits_for_what_stops() -> None:
    """Runtimes give workers and web servers longer than they give themselves."""
    lines = commands()
    assert int(unit("worker")["TimeoutStopSec"][0]) > stop_seconds(lines["systemd worker"], "stop-seconds")
    assert int(unit("web")["TimeoutStopSec"][0]) > stop_seconds(lines["systemd web"], "graceful-timeout")
    for name, option in (("worker", "stop-seconds"), ("web", "graceful-timeout")):
        grace = int(compose()[name]["stop_grace_period"].removesuffix("s"))
        assert grace > stop_seconds(lines[f"compose {name}"], option)
        pod = pods()[f"coderepos-{name}"]
        assert pod["terminationGracePeriodSeconds"] > stop_seconds(lines[f"kubernetes coderepos-{name}"], option)
    for where, line in lines.items():
        if "web" in where:
            assert stop_seconds(line, "timeout") > AppSettings.PROBE_TIMEOUT


def test_workers_are_always_started_again() -> None:
    """They end with 0 when they are told to stop, by whoever it is."""
    assert unit("worker")["Restart"] == ["always"]
    assert compose()["worker"]["restart"] == "always"


def test_nothing_has_rights_that_it_does_not_need() -> None:
    """In every container, and under systemd."""
    for pod in pods().values():
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        context = pod["containers"][0]["securityContext"]
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert (context["readOnlyRootFilesystem"], context["allowPrivilegeEscalation"]) == (True, False)
    for name, service in compose().items():
        if name != "database":
            assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
    for name in ("web", "worker"):
        assert unit(name)["CapabilityBoundingSet"] == [""]
        assert unit(name)["User"] != ["root"]


def test_image_copies_what_is_there() -> None:
    """Every source of a COPY exists in the checkout."""
    sources = re.findall(r"^COPY (\S+) ", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)

    assert sources
    assert all((DEPLOY.parents[1] / source).exists() for source in sources)


def test_image_installs_what_runs_and_no_more(tmp_path: Path) -> None:
    """Neither tests nor tools are in it, and every package of those that it names has a pinned version."""
    shutil.copy(DEPLOY.parents[1] / "requirements.txt", tmp_path)
    steps = re.findall(r"(sed .* > \w+\.txt)", (DEPLOY / "Dockerfile").read_text())
    subprocess.run(["sh", "-ec", "\n".join(steps)], cwd=tmp_path, check=True, timeout=30)
    lines = (tmp_path / "wanted.txt").read_text().splitlines()
    wanted = [line for line in lines if line and not line.startswith("#")]
    pins = {canonical(line) for line in (tmp_path / "pins.txt").read_text().splitlines() if "==" in line}

    names = {canonical(line) for line in wanted}
    assert names >= {"django", "django-q2", "gunicorn", "psycopg", "whitenoise", "hvac", "django-storages"}
    assert names.isdisjoint({"pytest", "moto", "flask", "mypy", "ruff", "coverage", "celery", "uvicorn"})
    assert needed(wanted) <= pins
    assert "[" not in (tmp_path / "pins.txt").read_text()


def canonical(requirement: str) -> str:
    """Return the name of a package as indexes have it."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\s\[=<>!~;]", requirement.strip())[0]).lower()


def needed(requirements: list[str]) -> set[str]:
    """Return the names of all packages that these need, and those need, here."""
    found: set[str] = set()
    waiting = [Requirement(line) for line in requirements]
    while waiting:
        requirement = waiting.pop()
        extras = ["", *requirement.extras]
        if requirement.marker and not any(requirement.marker.evaluate({"extra": extra}) for extra in extras):
            continue
        if (name := canonical(requirement.name)) in found and not requirement.extras:
            continue
        found.add(name)
        for line in metadata.requires(requirement.name) or ():
            inner = Requirement(line)
            if inner.marker is None or any(inner.marker.evaluate({"extra": extra}) for extra in extras):
                inner.marker = None
                waiting.append(inner)
    return found


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not here")
@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_systemd_takes_its_units(path: Path, tmp_path: Path) -> None:
    """It knows every key and value; the programs are those of this test."""
    here = path.read_text().replace("/srv/coderepos/.venv/bin/", f"{Path(sys.executable).parent}/")
    copy = tmp_path / path.name
    copy.write_text(here)

    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(copy)], capture_output=True, text=True, timeout=60
    )

    assert (done.returncode, done.stderr) == (0, "")
