"""The system-call filter of the sandbox, assembled as a classic BPF program.

Namespaces hide the machine; this filter keeps the program away from kernel interfaces that a build or a test never
needs and that have let programs out of namespaces before. What is refused answers EPERM, so that programs fail with a
message.
Numbers are those of the kernel's own tables (`asm/unistd_64.h`, `asm-generic/unistd.h`).
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Mapping

from deepground.errors import SandboxUnavailableError

_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_BIT = 0x40000000

_REFUSED: dict[str, tuple[int, int]] = {
    # name: (x86_64, aarch64); -1: the architecture has no such call
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "open_tree_attr": (467, 467),
    "unshare": (272, 97),
    "setns": (308, 268),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "userfaultfd": (323, 282),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "syslog": (103, 116),
    "iopl": (172, -1),
    "ioperm": (173, -1),
    "modify_ldt": (154, -1),
    "uselib": (134, -1),
    "open_by_handle_at": (304, 265),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "vhangup": (153, 58),
    "fanotify_init": (300, 262),
    "lookup_dcookie": (212, 18),
    "move_pages": (279, 239),
    "migrate_pages": (256, 238),
}
_MODES: dict[str, tuple[int, int, int | None, int]] = {
    # name: (x86_64, aarch64, position of the flags that say whether a file is made, position of its mode)
    "chmod": (90, -1, None, 1),
    "fchmod": (91, 52, None, 1),
    "fchmodat": (268, 53, None, 2),
    "fchmodat2": (452, 452, None, 2),
    "creat": (85, -1, None, 1),
    "mknod": (133, -1, None, 1),
    "mknodat": (259, 33, None, 2),
    "open": (2, -1, 1, 2),
    "openat": (257, 56, 2, 3),
}
"""Calls that can make a program run as its owner: in the workspace, for anybody on the machine."""
_FILTERED: dict[str, tuple[int, int]] = {
    "openat2": (437, 437),
    "clone": (56, 220),
    "clone3": (435, 435),
    "socket": (41, 198),
    "ioctl": (16, 29),
}

# CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
_NEW_NAMESPACES = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
_RUN_AS_OWNER = 0o6000  # S_ISUID, S_ISGID
_MAKES_A_FILE = 0o20000100  # O_CREAT, and the bit that is O_TMPFILE's own
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C  # both type into a terminal on another's behalf
_AF_INET, _AF_INET6 = 2, 10
_SOCKET_TYPE_MASK = 0xF  # without SOCK_CLOEXEC and SOCK_NONBLOCK
_SOCK_STREAM, _SOCK_DGRAM = 1, 2

# Offsets in struct seccomp_data; arguments are 64 bits wide, and their low halves come first on these machines.
_NR, _ARCH, _ARG0, _ARG1 = 0, 4, 16, 24
_ARG_SIZE = 8

# Opcodes of linux/bpf_common.h, put together: BPF_LD|W|ABS; BPF_JMP|JEQ|K, JGE, JSET; BPF_ALU|AND|K; BPF_RET|K.
_LOAD, _JEQ, _JGE, _JSET, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_ALLOW = 0x7FFF0000
_KILL = 0x80000000


def _refuse(number: int) -> int:
    return 0x00050000 | number


def _op(code: int, k: int, jt: int = 0, jf: int = 0) -> bytes:
    return struct.pack("=HBBI", code, jt, jf, k)


def seccomp_program(architecture: str) -> bytes:
    """The filter for `bwrap --seccomp`: an array of struct sock_filter.

    Sockets are left for IP alone (TCP and UDP; the sandbox's network namespace has only its own loopback), because a
    Unix socket that lies in the workspace would lead out of the sandbox.

    Args:
        architecture: as `platform.machine()` names it.

    Raises:
        SandboxUnavailableError: there is no table for this architecture.
    """
    if architecture not in _AUDIT_ARCH:
        known = ", ".join(_AUDIT_ARCH)
        raise SandboxUnavailableError(
            f"The sandbox has no system-call filter for {architecture}. Run it on one of: {known}."
        )
    column = list(_AUDIT_ARCH).index(architecture)
    nr = {name: numbers[column] for name, numbers in _FILTERED.items()}
    eperm = _op(_RETURN, _refuse(errno.EPERM))
    allow = _op(_RETURN, _ALLOW)
    program = [
        _op(_LOAD, _ARCH),
        _op(_JEQ, _AUDIT_ARCH[architecture], 1, 0),
        _op(_RETURN, _KILL),
        _op(_LOAD, _NR),
    ]
    if architecture == "x86_64":  # x32 has other numbers for the same calls
        program += [_op(_JGE, _X32_BIT, 0, 1), eperm]
    for numbers in _REFUSED.values():
        if numbers[column] >= 0:
            program += [_op(_JEQ, numbers[column], 0, 1), eperm]
    for *places, flags, mode in _MODES.values():
        if places[column] >= 0:
            program += _mode_rule(places[column], flags, mode)
    # The flags of these lie behind a pointer, which a filter cannot follow; ENOSYS makes callers use the older calls.
    for name in ("clone3", "openat2"):
        program += [_op(_JEQ, nr[name], 0, 1), _op(_RETURN, _refuse(errno.ENOSYS))]
    return b"".join([*program, *_argument_rules(nr, eperm, allow)])


def _argument_rules(nr: Mapping[str, int], eperm: bytes, allow: bytes) -> list[bytes]:
    """Calls that are allowed or refused by what they are called with; then everything else is allowed."""
    clone = [
        _op(_JEQ, nr["clone"], 0, 4),
        _op(_LOAD, _ARG0),
        _op(_JSET, _NEW_NAMESPACES, 0, 1),
        eperm,
        allow,
    ]
    ioctl = [
        _op(_JEQ, nr["ioctl"], 0, 5),
        _op(_LOAD, _ARG1),
        _op(_JEQ, _TIOCSTI, 1, 0),
        _op(_JEQ, _TIOCLINUX, 0, 1),
        eperm,
        allow,
    ]
    sockets = [
        _op(_JEQ, nr["socket"], 0, 9),
        _op(_LOAD, _ARG0),
        _op(_JEQ, _AF_INET, 1, 0),
        _op(_JEQ, _AF_INET6, 0, 5),
        _op(_LOAD, _ARG1),
        _op(_AND, _SOCKET_TYPE_MASK),
        _op(_JEQ, _SOCK_STREAM, 1, 0),
        _op(_JEQ, _SOCK_DGRAM, 0, 1),
        allow,
        eperm,
        allow,
    ]
    return [*clone, *ioctl, *sockets]


def _mode_rule(number: int, flags: int | None, mode: int) -> list[bytes]:
    rule = [
        _op(_LOAD, _ARG0 + _ARG_SIZE * mode),
        _op(_JSET, _RUN_AS_OWNER, 0, 1),
        _op(_RETURN, _refuse(errno.EPERM)),
        _op(_RETURN, _ALLOW),
    ]
    if flags is not None:  # without these, the mode is whatever the register held
        rule = [
            _op(_LOAD, _ARG0 + _ARG_SIZE * flags),
            _op(_JSET, _MAKES_A_FILE, 1, 0),
            _op(_RETURN, _ALLOW),
            *rule,
        ]
    return [_op(_JEQ, number, 0, len(rule)), *rule]
