"""A small immutable value class for what the child processes import.

It says what a frozen, keyword-only dataclass says. Two of these processes start for every clone, and importing
``dataclasses`` and making the values with it was measured at 30 ms in each of them. This imports nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ClassVar, Self, dataclass_transform
else:

    def dataclass_transform(**_):  # noqa: D103
        return lambda kind: kind


@dataclass_transform(kw_only_default=True, frozen_default=True)
class Record:
    """An immutable value whose annotated class attributes are its keyword-only fields, those of base classes first.

    A class attribute's value is the field's default. The module that defines the class needs
    ``from __future__ import annotations``.

    :param hidden: names of fields that ``repr`` leaves out, such as those of secrets.
    :raises TypeError: when it is made with an unknown field or without one that has no default.
    """

    _fields: ClassVar[tuple[str, ...]] = ()
    _hidden: ClassVar[frozenset[str]] = frozenset()
    _defaults: ClassVar[dict[str, object]] = {}

    def __init_subclass__(cls, *, hidden: tuple[str, ...] = ()) -> None:
        own = [name for name, kind in cls.__annotations__.items() if not kind.startswith("ClassVar")]
        fields = tuple(dict.fromkeys((*cls._fields, *own)))
        defaults = {name: vars(cls)[name] for name in own if name in vars(cls)}
        if strange := [name for name in hidden if name not in fields]:
            raise TypeError(f"{cls.__name__} has no field {', '.join(strange)} to hide")
        if shared := [name for name, value in defaults.items() if type(value).__hash__ is None]:
            raise TypeError(f"{cls.__name__} would share one default between its instances: {', '.join(shared)}")
        cls._fields, cls._defaults, cls._hidden = fields, cls._defaults | defaults, cls._hidden | {*hidden}

    def __init__(self, **given: object) -> None:
        values = self._defaults | given
        if unknown := [name for name in given if name not in self._fields]:
            raise TypeError(f"{type(self).__name__} has no field {', '.join(unknown)}")
        if missing := [name for name in self._fields if name not in values]:
            raise TypeError(f"{type(self).__name__} needs {', '.join(missing)}")
        vars(self).update((name, values[name]) for name in self._fields)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} does not change: {name}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} does not change: {name}")

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((type(self), *vars(self).values()))

    def __repr__(self) -> str:
        shown = [f"{name}={value!r}" for name, value in vars(self).items() if name not in self._hidden]
        return f"{type(self).__name__}({', '.join(shown)})"

    def replace(self, **changes: object) -> Self:
        """Return a copy with some fields changed."""
        return type(self)(**{**vars(self), **changes})

    def to_json(self) -> dict[str, Any]:
        """Return all fields, hidden ones too, as JSON values: records become objects, tuples become lists."""
        return {name: _json(value) for name, value in vars(self).items()}


def _json(value: object) -> object:
    if isinstance(value, Record):
        return value.to_json()
    if isinstance(value, tuple | list):
        return [_json(item) for item in value]
    if isinstance(value, dict):
        return {name: _json(item) for name, item in value.items()}
    return value
