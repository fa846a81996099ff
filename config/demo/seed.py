"""What the demo's installation starts with: tables, a user with a token, a project.

Runs as a program of its own, in the environment of that installation: ``python -m config.demo.seed``. Reads the user
name and password from standard input and prints the rest, both as JSON, so that neither stands in ``ps``.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import django
from django.core.management import call_command


def main() -> None:
    """Migrate, make the rows, print their keys."""
    django.setup()
    call_command("migrate", verbosity=0)
    json.dump(seed(**json.load(sys.stdin)), sys.stdout)


def seed(*, username: str, password: str) -> dict[str, Any]:
    """Make a superuser with a token and a project, and return the token and the project's id."""
    from django.contrib.auth.models import User
    from rest_framework.authtoken.models import Token

    from coderepos.models import get_project_model

    user = User.objects.create_superuser(username, password=password)
    return {
        "api_token": Token.objects.create(user=user).key,
        "project_id": str(get_project_model()._default_manager.create(name="Demo").pk),
    }


if __name__ == "__main__":
    main()
