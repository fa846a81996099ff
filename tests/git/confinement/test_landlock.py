"""The rules as the kernel gets them, for every version of Landlock."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from pathlib import Path

import pytest

from coderepos.git.confinement import landlock, linux
from coderepos.git.confinement.landlock import READ, WRITE, Rules


class Kernel:
    """Takes down every call, answers as a kernel of one ABI, and restricts nobody."""

    def __init__(self, version: int, *, refuses: int | None = None) -> None:
        self.version = version
        self.refuses = refuses
        self.attributes = b""
        self.paths: list[tuple[str, int]] = []
        self.ports: list[int] = []
        self.restricted = False
        self.ruleset = os.open(os.devnull, os.O_RDONLY)

    def __call__(self, number: int, *arguments: object) -> int:
        if number == self.refuses:
            return -errno.EINVAL
        if number == landlock._CREATE_RULESET:
            if arguments[0] is None:
                return self.version
            assert isinstance(arguments[0], bytes)
            self.attributes = arguments[0]
            return self.ruleset
        if number == landlock._ADD_RULE:
            kind, content = arguments[1], arguments[2]
            assert isinstance(kind, ctypes.c_int)
            assert isinstance(content, bytes)
            if kind.value == 1:
                access, target = struct.unpack("=Qi", content)
                self.paths.append((os.readlink(f"/proc/self/fd/{target}"), access))
            else:
                access, port = struct.unpack("=QQ", content)
                assert access == landlock._NET_CONNECT_TCP
                self.ports.append(port)
            return 0
        self.restricted = True
        return 0


def restricted(monkeypatch: pytest.MonkeyPatch, kernel: Kernel, rules: Rules) -> int:
    """Return what ``restrict`` returns on this kernel."""
    monkeypatch.setattr(linux, "syscall", kernel)
    return landlock.restrict(rules)


@pytest.mark.parametrize(
    ("version", "files", "size"),
    [
        (1, 0x1FFF, 8),
        (2, 0x3FFF, 8),
        (3, 0x7FFF, 8),
        (4, 0x7FFF, 16),
        (5, 0xFFFF, 16),
        (6, 0xFFFF, 24),
        (9, 0xFFFF, 24),
    ],
)
def test_all_that_an_abi_knows_is_handled(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: int, files: int, size: int
) -> None:
    """Every right that the kernel can name is refused unless granted; newer fields are not sent to older ones."""
    (tmp_path / "file").write_text("here")
    (tmp_path / "link").symlink_to("file")
    kernel = Kernel(version)
    rules = Rules(read=(str(tmp_path / "link"), "/nowhere"), write=(str(tmp_path),), connect_ports=(443, 53))

    assert restricted(monkeypatch, kernel, rules) == version

    assert kernel.restricted
    assert len(kernel.attributes) == size
    assert struct.unpack_from("=Q", kernel.attributes) == (files,)
    assert kernel.attributes[8:16] in (b"", struct.pack("=Q", 3))
    assert kernel.attributes[16:] in (b"", struct.pack("=Q", 3))
    assert kernel.paths == [(str(tmp_path / "file"), READ & landlock._OF_A_FILE), (str(tmp_path), WRITE & files)]
    assert kernel.ports == ([443, 53] if version >= 4 else [])
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(kernel.ruleset)


def test_a_kernel_without_landlock_binds_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever error says so, the answer is ABI 0."""
    for number in (errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM):
        kernel = Kernel(-number)

        assert restricted(monkeypatch, kernel, Rules()) == 0
        assert not kernel.restricted
        os.close(kernel.ruleset)


@pytest.mark.parametrize("call", [landlock._ADD_RULE, landlock._RESTRICT_SELF])
def test_a_refused_rule_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, call: int) -> None:
    """A kernel that has Landlock and refuses a rule is no reason to go on as if it were bound."""
    kernel = Kernel(4, refuses=call)

    with pytest.raises(OSError, match="Invalid argument"):
        restricted(monkeypatch, kernel, Rules(read=(str(tmp_path),)))

    assert not kernel.restricted


def test_the_real_kernel_is_asked() -> None:
    """The version comes from the kernel, and a bad call gives its error."""
    assert landlock.abi() >= 0
    assert linux.syscall(landlock._RESTRICT_SELF, ctypes.c_int(-1), ctypes.c_uint32(0)) < 0
