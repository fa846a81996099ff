"""Everything that a child uses, imported ahead: nothing is imported once a child was forked and is confined."""

from __future__ import annotations

import _strptime  # type: ignore[import-not-found]  # noqa: F401 (datetime.strptime imports it)
import encodings.ascii
import encodings.idna
import encodings.latin_1
import encodings.unicode_escape  # noqa: F401

import coderepos.git.build
import coderepos.git.commit_search
import coderepos.git.fetch
import coderepos.git.transport.background
import coderepos.git.transport.platform_api  # noqa: F401


def refresh() -> None:
    """Bring up to date what was prepared for the children; called before each of them is forked."""
