"""Everything that a child uses, imported ahead: nothing is imported once a child was forked and is confined."""

from __future__ import annotations

import coderepos.git.build
import coderepos.git.commit_search
import coderepos.git.fetch  # noqa: F401
from coderepos.git.confinement import first_use
from coderepos.git.transport import tls

first_use.load()


def refresh() -> None:
    """Bring up to date what was prepared for the children; called before each of them is forked."""
    tls.prepare()
