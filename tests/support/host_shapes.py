"""Hosts as they are found: what each does its own way, in settings, models and the way its users sign in."""

from __future__ import annotations

from dataclasses import dataclass

from tests.support.host_project import MOUNTED


@dataclass(frozen=True, kw_only=True)
class Shape:
    """One kind of host."""

    settings: str
    """Appended to those of ``startproject``; mounts the app."""

    app: str = ""
    models: str = ""
    before: str = ""
    """Settings that must come before the app's models are installed."""

    make_project: str
    """Expression that makes a project of ``user``; ``Project`` is the model."""

    user: str = "username='root', password='secret'"
    sign_in: str = "basic"
    cluster: str = ""
    """Name of the cluster that works for the app, where it is not the host's own."""


TOKENS = """
    INSTALLED_APPS += ["rest_framework.authtoken"]
"""

EMPTY = Shape(
    settings=f"{MOUNTED}\n    INSTALLED_APPS += ['coderepos.projects']\n",
    make_project="Project.objects.create(name='Rocket')",
)

MONITORING = Shape(
    app="accounts",
    models="""
    from django.conf import settings

    class Project(models.Model):
        code = models.UUIDField(default=uuid.uuid4, unique=True)
        owner = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE)
        name = models.CharField(max_length=200, blank=True)
        api_key = models.CharField(max_length=128, blank=True, db_index=True)

    class Check(models.Model):
        project = models.ForeignKey(Project, models.CASCADE)
        kind = models.CharField(max_length=10, default="simple")
    """,
    settings=f"""{MOUNTED}
    CODEREPOS_PROJECT_MODEL = "accounts.Project"
    INSTALLED_APPS = tuple(INSTALLED_APPS)
    USE_L10N = False
    TIME_ZONE = "Asia/Kathmandu"
    DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
    """,
    make_project="Project.objects.create(owner=user)",
)
"""An integer key beside a UUID that is not one, a tuple of apps, a zone with odd minutes, small automatic keys."""

TEMPLATE = Shape(
    app="users",
    models="""
    from django.contrib.auth.models import AbstractUser, UserManager

    class Manager(UserManager):
        def create_superuser(self, email, password):
            user = self.model(email=email, is_staff=True, is_superuser=True)
            user.set_password(password)
            user.save()
            return user

    class User(AbstractUser):
        username = None
        first_name = None
        last_name = None
        name = models.CharField(max_length=255, blank=True)
        email = models.EmailField(unique=True)
        USERNAME_FIELD = "email"
        REQUIRED_FIELDS = []
        objects = Manager()

    class Project(models.Model):
        id = models.UUIDField(primary_key=True, default=uuid.uuid4)
        title = models.CharField(max_length=100)
    """,
    before="AUTH_USER_MODEL = 'users.User'\n",
    settings=f"""{MOUNTED}{TOKENS}
    CODEREPOS_PROJECT_MODEL = "users.Project"
    DATABASES["default"]["ATOMIC_REQUESTS"] = True
    LANGUAGE_CODE = "de-de"
    TIME_ZONE = "America/Sao_Paulo"
    REST_FRAMEWORK = {{
        "DEFAULT_AUTHENTICATION_CLASSES": (
            "rest_framework.authentication.SessionAuthentication",
            "rest_framework.authentication.TokenAuthentication",
        ),
        "DEFAULT_PERMISSION_CLASSES": ("rest_framework.permissions.IsAuthenticated",),
    }}
    """,
    make_project="Project.objects.create(title='Rocket')",
    user="email='root@example.org', password='secret'",
    sign_in="token",
)
"""A user without a user name, a transaction per request, texts and times that are not English and not UTC."""

INVENTORY = Shape(
    app="tenancy",
    models="""
    class Tenant(models.Model):
        name = models.CharField(max_length=100, unique=True)
        slug = models.SlugField(max_length=100, unique=True)

    class Project(models.Model):
        id = models.BigAutoField(primary_key=True)
        tenant = models.ForeignKey(Tenant, models.PROTECT, null=True)
        name = models.CharField(max_length=100)
    """,
    settings=f"""{MOUNTED}
    INSTALLED_APPS += ["django.contrib.sites", "django.contrib.humanize", "django.contrib.flatpages"]
    SITE_ID = 1
    CODEREPOS_PROJECT_MODEL = "tenancy.Project"
    CODEREPOS["QUEUE_CLUSTER"] = "code"
    Q_CLUSTER = {{
        "name": "inventory", "orm": "default", "workers": 1, "timeout": 20, "retry": 30, "poll": 0.2,
        "ALT_CLUSTERS": {{"code": {{**Q_CLUSTER, "workers": 1}}}},
    }}
    REST_FRAMEWORK = {{
        "DEFAULT_AUTHENTICATION_CLASSES": ["rest_framework.authentication.BasicAuthentication"],
        "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.AllowAny"],
        "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.BrowsableAPIRenderer"],
        "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.MultiPartParser"],
        "DEFAULT_VERSIONING_CLASS": "rest_framework.versioning.AcceptHeaderVersioning",
        "ALLOWED_VERSIONS": ["4"],
        "DEFAULT_PAGINATION_CLASS": "rest_framework.pagination.CursorPagination",
        "DEFAULT_FILTER_BACKENDS": ["rest_framework.filters.SearchFilter"],
        "EXCEPTION_HANDLER": "mysite.handler.refuse",
        "COERCE_DECIMAL_TO_STRING": True,
        "PAGE_SIZE": 1,
    }}
    """,
    make_project="Project.objects.create(name='Rocket')",
    cluster="code",
)
"""Defaults of REST framework that would change every answer of ours, and a cluster that is not for clones."""

SHAPES = {"empty": EMPTY, "monitoring": MONITORING, "template": TEMPLATE, "inventory": INVENTORY}
