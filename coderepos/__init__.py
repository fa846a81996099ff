"""Connect Git repositories to the projects of a Django site, safely.

Access tokens are sealed, sizes are checked before anything is accepted, and a worker clones into a read-only sandbox.
This module imports nothing: the processes that fetch and build import the package without Django.
"""

from __future__ import annotations

__version__ = "0.1.0"
