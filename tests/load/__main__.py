"""``python -m tests.load``: fills a PostgreSQL of its own, and prints what everything costs there."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import django

from tests.postgres import temporary_server


def main() -> None:
    """Fill a database, measure, and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m tests.load", description=__doc__)
    parser.add_argument("--repositories", type=int, default=10_000)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--entries", type=int, default=200_000)
    parser.add_argument("--runs", type=int, default=25, help="how often each call is made; the median counts")
    options = parser.parse_args()
    with _database():
        from tests.load import filling, tables

        tables.print_calls(filling.Sizes(options.repositories, options.jobs, options.entries), options.runs)
        tables.print_sweeps(options.repositories, max(3, options.runs // 5))


@contextmanager
def _database() -> Iterator[None]:
    """Set Django up with an empty database on a server of its own."""
    with temporary_server() as url:
        os.environ |= {"DATABASE_URL": url, "DJANGO_SETTINGS_MODULE": "tests.settings"}
        django.setup()
        logging.disable(logging.CRITICAL)  # jobs that nobody takes, and pages that are not there
        from django.test.utils import override_settings, setup_test_environment

        from tests.support.database import connection

        setup_test_environment(debug=False)
        connection.creation.create_test_db(verbosity=0, serialize=False)
        with override_settings(ROOT_URLCONF="tests.load.urls"):
            yield
        connection.close()


if __name__ == "__main__":
    main()
