"""A host that does everything its own way, run as a program; prints as JSON what its callers get.

Its project model is its own and has integer keys, its clock is not UTC, and each of its defaults of REST framework
would change our answers if we let it.
"""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import Any

import django
from django.conf import settings
from django.urls import include, path

from tests.host_project import base

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "host_project"))  # where the app ``shop`` is

settings.configure(
    SECRET_KEY=base.SECRET_KEY,
    ALLOWED_HOSTS=base.ALLOWED_HOSTS,
    ROOT_URLCONF=__name__,
    USE_TZ=False,
    TIME_ZONE="America/New_York",
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:", "ATOMIC_REQUESTS": True}},
    INSTALLED_APPS=[*base.INSTALLED_APPS, "shop"],
    MIDDLEWARE=base.MIDDLEWARE,
    TEMPLATES=base.TEMPLATES,
    REST_FRAMEWORK={
        "DEFAULT_AUTHENTICATION_CLASSES": ["rest_framework.authentication.BasicAuthentication"],
        "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.AllowAny"],
        "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
        "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
        "DEFAULT_VERSIONING_CLASS": "rest_framework.versioning.AcceptHeaderVersioning",
        "ALLOWED_VERSIONS": ["7"],
        "DEFAULT_PAGINATION_CLASS": "rest_framework.pagination.CursorPagination",
        "DEFAULT_FILTER_BACKENDS": ["rest_framework.filters.SearchFilter"],
        "PAGE_SIZE": 1,
        "NON_FIELD_ERRORS_KEY": "errors",
        "DATETIME_FORMAT": "%d.%m.%Y",
        "COERCE_DECIMAL_TO_STRING": True,
        "UNAUTHENTICATED_USER": None,
        "EXCEPTION_HANDLER": f"{__name__}.handler_of_the_host",
    },
    Q_CLUSTER=base.Q_CLUSTER,
    CODEREPOS_PROJECT_MODEL="shop.Project",
    CODEREPOS=base.CODEREPOS,
)


def handler_of_the_host(error: Exception, context: Any) -> None:
    """Stand for any handler: it must never see an error of ours."""
    raise AssertionError("The host's handler was asked.")


def main() -> None:
    """Play a day of the host."""
    if "--without-spectacular" in sys.argv:
        sys.modules["drf_spectacular"] = None  # type: ignore[assignment]  # makes its import fail
    django.setup()
    from django.contrib import admin
    from django.contrib.auth.models import User
    from django.core.management import call_command
    from django.db.models.functions import Now
    from django.test import Client

    from coderepos.models import CodeRepository, Job, ProjectMembership, get_project_model

    sys.modules[__name__].urlpatterns = [  # type: ignore[attr-defined]
        path("admin/", admin.site.urls),
        path("<str:org>/code/", include("coderepos.api.urls")),
    ]
    call_command("migrate", verbosity=0)
    project: Any = get_project_model()._default_manager.create(title="Rocket")
    user = User.objects.create_superuser("root", password="secret")
    ProjectMembership.objects.create(project=project, user=user, role="developer")
    repository = CodeRepository.objects.create(
        project=project,
        git_url="https://github.com/a/b",
        url_key="k",
        token_ciphertext="ghp_0123456789",
        repository_size_mb="1.50",
        clone_status="FAILED",
    )
    Job.objects.create(repository=repository, state="FAILED", attempt=1)
    CodeRepository.objects.update(cloned_at=Now())
    repository.refresh_from_db()

    anybody = Client(raise_request_exception=False)
    basic = base64.b64encode(b"root:secret").decode()
    caller = Client(headers={"authorization": f"Basic {basic}"})
    clicker = Client()
    clicker.force_login(user)

    def post(where: str, body: object) -> Any:
        return caller.post(f"/acme/code/{where}", json.dumps(body), content_type="application/json")

    answers = {
        "anonymous": anybody.get("/acme/code/repos"),
        "details": caller.get(f"/acme/code/repos/{repository.pk}"),
        "status": caller.get(f"/acme/code/repos/{repository.pk}/status"),
        "jobs": caller.get(f"/acme/code/repos/{repository.pk}/jobs"),
        "project": caller.get(f"/acme/code/projects/{project.pk}/repos"),
        "foreign": caller.get("/acme/code/projects/999/repos"),
        "malformed": caller.get("/acme/code/projects/1e0/repos"),
        "clone": post(f"repos/{repository.pk}/clone", {}),
        "empty": post("connect", {}),
        "list": post("connect", []),
        "bad_url": post("connect", {"git_url": "https://", "project_id": project.pk}),
    }
    pages = ["coderepository/", "job/", "node/", "projectmembership/", f"coderepository/{repository.pk}/change/"]
    result = {
        "answers": {
            name: {"status": answer.status_code, "body": answer.json(), "challenge": answer.get("WWW-Authenticate")}
            for name, answer in answers.items()
        },
        "pages": {page: clicker.get(f"/admin/coderepos/{page}").status_code for page in pages},
        "project_admin": any(model._meta.label == "coderepos_projects.Project" for model in admin.site._registry),
        "schema_imported": "coderepos.api.schema" in sys.modules,
        "repo_id": str(repository.pk),
    }
    sys.stdout.write(json.dumps(result))


if __name__ == "__main__":
    main()
