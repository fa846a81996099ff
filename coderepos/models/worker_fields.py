"""Base of rows that workers change at any time while other code loads and saves them."""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import ClassVar

from coderepos.crypto.rows import SealedTokenModel


class WorkerFieldsModel(SealedTokenModel):
    """A row whose save writes the fields that belong to workers only if they were assigned.

    A row that was loaded before a clone ended must not undo its end.
    """

    worker_fields: ClassVar[tuple[str, ...]]
    """Names of the fields that workers write."""

    class Meta:
        abstract = True

    def _changed_fields(self) -> set[str] | None:
        names, loaded = super()._changed_fields(), vars(self._state).get("loaded_worker_fields", {})
        return None if names is None else {name for name in names if name not in loaded or self._was_assigned(name)}

    def _was_assigned(self, name: str) -> bool:
        return bool(vars(self)[name] != vars(self._state)["loaded_worker_fields"][name])

    def _remember_stored(self, names: Collection[str] | None = None) -> None:
        super()._remember_stored(names)
        present = {name for name in self.worker_fields if name in vars(self) and (names is None or name in names)}
        known = vars(self._state).setdefault("loaded_worker_fields", {})
        known.update({name: copy.copy(vars(self)[name]) for name in present})
