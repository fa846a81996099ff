"""The value class of the child processes does what a frozen, keyword-only dataclass does."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from typing import Any, ClassVar

import pytest

from coderepos.git.limits import Limits
from coderepos.git.process import supervisor
from coderepos.git.record import Record
from coderepos.git.wire import FetchRequest, NetworkPolicy, fetch_request, load_line, request_line


class Point(Record):
    """Two fields, and what is none."""

    FAR: ClassVar[int] = 100

    x: int
    y: int = 2
    """A default."""

    not_a_field = 5

    @property
    def total(self) -> int:
        """Return both together."""
        return self.x + self.y


class Named(Point, hidden=("token",)):
    """Fields of its own behind those of its base."""

    token: str | None
    names: tuple[str, ...] = ()
    y: int = 3


class Holder(Record):
    """Values that hold others."""

    points: tuple[Point, ...]
    counts: dict[str, object]
    named: Named | None = None


def changed(kind: type[Record], *positional: object, **given: object) -> Any:
    """Make a value as no type checker would allow."""
    return kind(*positional, **given)


def test_fields_are_keywords_with_defaults() -> None:
    """Annotated attributes are fields; class variables, plain attributes and properties are none."""
    point = Point(x=1)

    assert (point.x, point.y, point.total) == (1, 2, 3)
    assert point.to_json() == {"x": 1, "y": 2}
    with pytest.raises(TypeError):
        changed(Point, 1)


def test_fields_are_inherited() -> None:
    """Those of the base come first, and a default can be replaced."""
    assert repr(Named(x=1, token=None)) == "Named(x=1, y=3, names=())"
    assert Point(x=1).y == 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "Point needs x"),
        ({"y": 1}, "Point needs x"),
        ({"x": 1, "z": 2, "FAR": 3}, "Point has no field z, FAR"),
        ({"x": 1, "not_a_field": 2}, "Point has no field not_a_field"),
        ({"x": 1, "_fields": ()}, "Point has no field _fields"),
    ],
)
def test_unknown_and_missing_fields_are_named(given: dict[str, object], message: str) -> None:
    """The error says which they are."""
    with pytest.raises(TypeError, match=f"^{message}$"):
        changed(Point, **given)


def test_an_error_shows_no_value() -> None:
    """A token that came by a wrong name does not get into a log by it."""
    with pytest.raises(TypeError) as caught:
        changed(Named, x=1, token="s3cret", tokken="s3cret")

    assert "s3cret" not in str(caught.value)


def test_nothing_changes_a_value() -> None:
    """Neither a field nor anything else can be set or deleted."""
    point: Any = Point(x=1)

    with pytest.raises(AttributeError, match="Point does not change: x"):
        point.x = 2
    with pytest.raises(AttributeError, match="Point does not change: other"):
        point.other = 2
    with pytest.raises(AttributeError, match="Point does not change: x"):
        del point.x
    assert point == Point(x=1)


def test_values_of_one_class_are_compared() -> None:
    """Equal fields make equal values with one hash; another class, a base too, is another value."""
    assert Point(x=1) == Point(y=2, x=1)
    assert Point(x=1) != Point(x=2)
    assert len({Point(x=1), Point(x=1, y=2), Point(x=2)}) == 2
    assert Named(x=1, y=2, token=None) != Point(x=1, y=2)
    assert Point(x=1) != (1, 2)
    with pytest.raises(TypeError, match="unhashable"):
        hash(Holder(points=(), counts={}))


def test_hidden_fields_never_show() -> None:
    """They are left out of ``repr``, also inside of another value and in subclasses; they still count."""

    class More(Named):
        z: int = 0

    named = Named(x=1, token="s3cret")

    assert "s3cret" not in f"{named} {named!r} {Holder(points=(), counts={}, named=named)}"
    assert "s3cret" not in repr(More(x=1, token="s3cret"))
    assert named.token == "s3cret"
    assert named != Named(x=1, token="other")
    assert named.to_json()["token"] == "s3cret"


def test_the_request_with_the_token_does_not_show_it() -> None:
    """Either half of the credentials may be the token; both reach the child, and neither gets into a log."""
    request = FetchRequest(
        url="https://git.example/r.git",
        username="s3cret",
        password="s3cret",
        ref="",
        depth=1,
        policy=NetworkPolicy(allowed_hosts=("git.example",)),
        limits=Limits(),
        min_level=1,
        count_only=False,
    )

    assert "s3cret" not in f"{request} {request!r}"
    assert fetch_request(load_line(request_line(request))) == request


def test_replace_makes_another_value() -> None:
    """The rest stays, hidden fields too; the class and the checks are the same."""
    named = Named(x=1, token="t", names=("a",))

    assert named.replace(x=5) == Named(x=5, token="t", names=("a",))
    assert named.x == 1
    assert type(named.replace()) is Named
    with pytest.raises(TypeError, match="Named has no field z"):
        named.replace(z=1)


def test_json_values() -> None:
    """Nested values become objects and tuples lists, at any depth."""
    holder = Holder(
        points=(Point(x=1),), counts={"a": (1, 2.5), "b": [Point(x=2)]}, named=Named(x=0, token=None, names=("n",))
    )

    assert holder.to_json() == {
        "points": [{"x": 1, "y": 2}],
        "counts": {"a": [1, 2.5], "b": [{"x": 2, "y": 2}]},
        "named": {"x": 0, "y": 3, "token": None, "names": ["n"]},
    }
    assert json.loads(json.dumps(holder.to_json())) == holder.to_json()


def test_copies_are_equal() -> None:
    """Copying and pickling work as for any value."""
    point = Point(x=1, y=7)

    assert copy.deepcopy(point) == copy.copy(point) == pickle.loads(pickle.dumps(point)) == point  # noqa: S301


def test_mistakes_in_a_class_are_found_when_it_is_made() -> None:
    """A hidden field that is none would show a secret; a default that changes would be shared."""
    with pytest.raises(TypeError, match="Misspelt has no field tokken to hide"):

        class Misspelt(Record, hidden=("tokken",)):
            token: str

    with pytest.raises(TypeError, match="Sharing would share one default between its instances: counts"):

        class Sharing(Record):
            counts: dict[str, int] = {}


def test_it_imports_nothing() -> None:
    """Nothing is loaded by it but the packages that it is in."""
    code = (
        f"import sys; sys.path.insert(0, {supervisor.ROOT!r}); before = set(sys.modules); import coderepos.git.record\n"
        "print(*sorted(set(sys.modules) - before - {'__future__'}))"
    )
    answer = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)

    assert answer.stdout.split() == ["coderepos", "coderepos.git", "coderepos.git.record"]
