"""From an empty folder to a clone and back, in hosts of every kind: nothing of ours stays."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.host_project import HostProject
from tests.support.host_shapes import SHAPES, Shape
from tests.support.selection import sampled
from tests.support.servers.git_http_backend import GitServer

AUTHOR = ("-c", "user.name=A", "-c", "user.email=a@example.org")
TOKEN = "ghp_OfTheHosts0123456789abcdefghijklmnop"

USE = """
import base64, json, sys, time
from django.contrib.auth import get_user_model
from django.test import Client
from coderepos.models import get_project_model

User, Project = get_user_model(), get_project_model()
user = User.objects.create_superuser({user})
project = {make_project}
if {sign_in!r} == "token":
    from rest_framework.authtoken.models import Token
    header = "Token " + Token.objects.create(user=user).key
else:
    header = "Basic " + base64.b64encode(b"root:secret").decode()
caller = Client(headers={{"authorization": header, "host": "localhost"}})
body = {{"git_url": {url!r}, "access_token": {token!r}, "project_id": str(project.pk)}}
answer = caller.post("/api/v1/code/connect", json.dumps(body), content_type="application/json")
assert answer.status_code == 201, answer.content
repo_id = answer.json()["repo_id"]
deadline = time.monotonic() + 60
while True:
    status = caller.get(f"/api/v1/code/repos/{{repo_id}}/status").json()
    if status["clone_status"] in ("COMPLETED", "FAILED") or time.monotonic() > deadline:
        break
    time.sleep(0.2)
print(json.dumps(status))
"""
LEAVE = """
from django.contrib.auth import get_user_model
from django.contrib import admin
from django.test import Client
from django.urls import reverse
from coderepos.models import AuditEntry, CodeRepository, Job, get_project_model

Project = get_project_model()
client = Client(headers={"host": "localhost"})
client.force_login(get_user_model().objects.get())
project = Project.objects.get()
address = reverse(f"admin:{Project._meta.app_label}_project_delete", args=[project.pk])
assert client.post(address, {"post": "yes"}).status_code == 302
assert not Project.objects.exists() and not CodeRepository.objects.exists() and not Job.objects.exists()
assert AuditEntry.objects.newest_first()[0].event == "disconnected"
"""
LEFT = """
from django.db import connection
from django.contrib.auth.models import Permission
from django.contrib.contenttypes.models import ContentType
from django.db.migrations.recorder import MigrationRecorder
from django_q.models import OrmQ, Schedule, Task

ours = [name for name in connection.introspection.table_names() if name.startswith("code_repo") or name == "projects"]
ours += ContentType.objects.filter(app_label__startswith="coderepos")
ours += Permission.objects.filter(content_type__app_label__startswith="coderepos")
ours += Schedule.objects.all()
ours += Task.objects.filter(func__startswith="coderepos")
ours += OrmQ.objects.all()
ours += MigrationRecorder.Migration.objects.filter(app__startswith="coderepos")
assert ours == [], ours
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GitServer]:
    """A Git server with one repository that wants the token."""
    root = tmp_path / "remote"
    work = tmp_path / "work"
    root.mkdir()
    for command in (
        ["git", "init", "-q", "-b", "main", str(work)],
        [
            "git",
            "-C",
            str(work),
            "-c",
            "user.name=A",
            "-c",
            "user.email=a@b.c",
            "commit",
            "-q",
            "--allow-empty",
            "-m",
            "x",
        ],
        ["git", "clone", "-q", "--bare", str(work), str(root / "code.git")],
    ):
        subprocess.run(command, check=True)
    with GitServer(root, credentials=("git", TOKEN)) as server:
        yield server


@pytest.fixture(params=sampled(SHAPES, every=len(SHAPES)))
def shape(request: pytest.FixtureRequest) -> Shape:
    """One kind of host after the other."""
    return SHAPES[request.param]


@pytest.fixture
def host(shape: Shape, server: GitServer, tmp_path: Path) -> HostProject:
    """That host, with the app mounted and its tables made."""
    (tmp_path / "host").mkdir()
    host = HostProject(tmp_path / "host")
    host.configure(shape.before)
    if shape.app:
        host.add_app(shape.app, shape.models)
        host.add(
            f"{shape.app}/admin.py",
            "from django.contrib import admin\nfrom . import models\nadmin.site.register(models.Project)\n",
        )
    host.configure(shape.settings)
    host.configure(
        f"""
        CODEREPOS |= {{"PRIVATE_GIT_HOSTS": [{server.host!r}], "INSECURE_HTTP_HOSTS": [{server.host!r}]}}
        ALLOWED_HOSTS = ["localhost"]
        """
    )
    host.add("mysite/handler.py", "def refuse(error, context):\n    raise AssertionError('the handler of the host')\n")
    host.add(
        "mysite/urls.py",
        """
        from django.urls import include
        urlpatterns += [path("api/v1/code/", include("coderepos.api.urls"))]
        """,
    )
    if shape.app:
        host.manage("makemigrations", shape.app)
    assert "coderepos." not in host.manage("check")
    host.manage("makemigrations", "--check", "--dry-run")
    host.manage("migrate")
    return host


def test_host_mounts_uses_and_leaves_the_app(host: HostProject, shape: Shape, server: GitServer) -> None:
    """Check, migrate, connect, clone, delete in the admin, uninstall, and on without the app."""
    name = {"Q_CLUSTER_NAME": shape.cluster} if shape.cluster else {}
    with host.running("coderepos_worker", **name):
        status = json.loads(
            host.python(
                USE.format(
                    user=shape.user,
                    make_project=shape.make_project,
                    sign_in=shape.sign_in,
                    url=server.url("code.git"),
                    token=TOKEN,
                )
            ).splitlines()[-1]
        )
        assert status["clone_status"] == "COMPLETED", status
        assert Path(status["sandbox_path"]).is_dir()
        host.python(LEAVE)

    printed = host.manage("coderepos_uninstall", "--noinput")
    assert "sandboxes removed" in printed, "by the worker, or by this command"
    assert not (host.folder / "repos").exists()
    host.configure('INSTALLED_APPS = [app for app in INSTALLED_APPS if not app.startswith("coderepos")]\n')
    urls = host.folder / "mysite/urls.py"
    urls.write_text(urls.read_text().replace('path("api/v1/code/", include("coderepos.api.urls"))', ""))
    host.manage("makemigrations", "--check", "--dry-run")
    host.manage("migrate")
    host.python(LEFT)
    assert TOKEN not in (host.folder / "coderepos_worker.log").read_text()
