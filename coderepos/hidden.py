"""Text and bytes that hide themselves in ``repr``: what holds a token or a key in a local variable.

Debug pages and error reporters print the local variables of every frame of an exception by ``repr``. Imports nothing:
the processes without Django need it too.
"""

from __future__ import annotations


class HiddenText(str):
    """Text that is used as any other and shows nothing of itself in ``repr``.

    Whatever is derived from it (a slice, an encoding) is plain again, and gets no name or is hidden anew.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return "HiddenText('***')"


class HiddenBytes(bytes):
    """Bytes that are used as any other and show nothing of themselves in ``repr``; see :class:`HiddenText`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "HiddenBytes('***')"

    __str__ = __repr__
