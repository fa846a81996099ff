"""System checks of the app's settings; ids are stable, hints say what to do.

E001 unknown key          E002 wrong type or range    E003 rate             E004 host entry      E005 sandbox path
E006 access policy        E007 project model          E009 sandbox group    E010 CA bundle
E011 a token field without the field of its key (crypto.fields)             E012 key of the project model
E013 tables that belong to another project model (check --database)         E014 one database
E015 proxy                E016 name of the cluster    E017 database of the queue  E018 queue
E019 limits of tenants
E020 to E029 keys         W030 to W039 queue          W040 insecure hosts   W042 isolation       W043 log redaction
W044 password of a proxy  W045 temporary directory  W046 SQLite           W047 isolation of level 1
W048 cache of one process E050 a queue without workers
W051 budget of the disk   E052 retention
E053 storage for packs    E054 names of its files     E055 memory of its files
"""

from __future__ import annotations

import grp
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

from django.conf import settings
from django.core import checks

from coderepos.access import parse_rate
from coderepos.checks.deployment import check_deployment
from coderepos.checks.messages import error, warning
from coderepos.checks.project import check_one_database, check_project_model, check_project_tables
from coderepos.checks.queue import check_queue
from coderepos.checks.storage import check_storage
from coderepos.checks.types import is_dict, wrong_types
from coderepos.conf import SETTINGS, ConfigurationError, conf, imported
from coderepos.crypto import keyring
from coderepos.git.transport.proxy import parse_proxy_url
from coderepos.setting_types import Hosts, Rate, TextList, is_list

__all__ = ["check_deployment", "check_keys", "check_queue", "check_settings", "check_storage", "register"]

POLICY_METHODS: Final = ("visible_projects", "allows")


def register() -> None:
    """Register every check with Django."""
    checks.register(check_settings, checks.Tags.security)
    checks.register(check_keys, checks.Tags.security)
    checks.register(check_project_model, checks.Tags.models)
    checks.register(check_one_database, checks.Tags.models)
    checks.register(check_project_tables, checks.Tags.database)
    checks.register(check_queue)
    checks.register(check_storage)
    checks.register(check_deployment, checks.Tags.security, deploy=True)


def check_settings(**_: Any) -> list[checks.CheckMessage]:
    """Check the keys and values of ``settings.CODEREPOS``."""
    if not is_dict():
        return [error(2, "CODEREPOS must be a dict.", "Write CODEREPOS = {...} in the settings.")]
    messages: list[checks.CheckMessage] = [
        error(1, f"CODEREPOS has the unknown key {key!r}.", f"Known keys: {', '.join(sorted(SETTINGS))}.")
        for key in sorted(set(map(str, getattr(settings, "CODEREPOS", {}))) - SETTINGS.keys())
    ]
    messages += wrong_types()
    return messages or [
        *_wrong_rates(),
        *_wrong_hosts(),
        *_wrong_proxy(),
        *_wrong_paths(),
        *_wrong_policy(),
        *_wrong_limits(),
        *_wrong_disk_rules(),
    ]


def _wrong_rates() -> Iterator[checks.CheckMessage]:
    for key, setting in SETTINGS.items():
        try:
            if isinstance(setting.kind, Rate):
                parse_rate(getattr(conf, key))
        except ConfigurationError as problem:
            yield error(3, f"CODEREPOS[{key!r}]: {problem}", "Write a rate like 60/hour.")


def _wrong_hosts() -> Iterator[checks.CheckMessage]:
    for key, setting in SETTINGS.items():
        if isinstance(setting.kind, Hosts):
            for entry in getattr(conf, key):
                if not setting.kind.accepts(entry):
                    yield error(4, f"CODEREPOS[{key!r}] has the entry {entry!r}.", "Write host or host:port.")


def _wrong_proxy() -> Iterator[checks.CheckMessage]:
    # No variable for the URL, which may hold a password.
    if conf.HTTPS_PROXY_URL is None:
        return
    try:
        if not isinstance(conf.HTTPS_PROXY_URL, str):
            raise TypeError
        parse_proxy_url(conf.HTTPS_PROXY_URL)
    except (TypeError, ValueError):
        hint = "Write http://host:port or http://user:password@host:port; reserved characters as %40."
        yield error(15, "CODEREPOS['HTTPS_PROXY_URL'] is not the URL of a proxy.", hint)


def _wrong_paths() -> Iterator[checks.CheckMessage]:
    if not os.path.isabs(conf.SANDBOX_BASE_PATH):
        yield error(5, "CODEREPOS['SANDBOX_BASE_PATH'] must be an absolute path.", "Write it from the root, /.")
    if conf.SANDBOX_GROUP:
        try:
            grp.getgrnam(conf.SANDBOX_GROUP)
        except KeyError:
            yield error(9, f"There is no group {conf.SANDBOX_GROUP!r}.", "Create it, or leave SANDBOX_GROUP out.")
    if conf.GIT_CA_BUNDLE and not os.access(conf.GIT_CA_BUNDLE, os.R_OK):
        yield error(10, "CODEREPOS['GIT_CA_BUNDLE'] cannot be read.", "Give the path of a PEM file.")


def _wrong_policy() -> Iterator[checks.CheckMessage]:
    try:
        policy = imported("ACCESS_POLICY")
    except ConfigurationError as problem:
        yield error(6, str(problem), "Give the dotted path of a class.")
        return
    missing = [name for name in POLICY_METHODS if not callable(getattr(policy, name, None))]
    if missing:
        yield error(6, f"{conf.ACCESS_POLICY} lacks {' and '.join(missing)}.", "See coderepos.access.AccessPolicy.")


def _wrong_limits() -> Iterator[checks.CheckMessage]:
    try:
        limits = imported("LIMITS")
    except ConfigurationError as problem:
        yield error(19, str(problem), "Give the dotted path of a function.")
        return
    if not callable(limits):
        yield error(19, f"{conf.LIMITS} is not a function.", "See coderepos.limits.default_limits.")


def _wrong_disk_rules() -> Iterator[checks.CheckMessage]:
    try:
        rules = imported("RETENTION")
    except ConfigurationError as problem:
        yield error(52, str(problem), "Give the dotted path of a function.")
    else:
        if not callable(rules):
            yield error(52, f"{conf.RETENTION} is not a function.", "See coderepos.retention.keep_all.")
    if conf.sandbox_max_bytes is not None and conf.sandbox_max_bytes < conf.max_repo_size_bytes:
        hint = "Raise SANDBOX_MAX_GB, or lower MAX_REPO_SIZE_MB."
        yield warning(51, "SANDBOX_MAX_GB has no room for one repository of MAX_REPO_SIZE_MB.", hint)


def check_keys(**_: Any) -> list[checks.CheckMessage]:
    """Check the encryption keys; no message holds a byte of one."""
    if not is_dict() or not all(map(is_list, _readers_of_key_lists())):
        return []
    return [error(20 + number, message, hint) for number, message, hint in keyring.problems()]


def _readers_of_key_lists() -> Iterator[Callable[[], object]]:
    for key, setting in SETTINGS.items():
        if isinstance(setting.kind, TextList) and setting.kind.secret:
            yield partial(getattr, conf, key)
