"""The sandbox of a decoder child: resource limits, Landlock (which files) and seccomp (which system calls).

Neither Landlock nor seccomp was enough alone (measured: Landlock let HTTP out, seccomp let another user's file be
read). With both, a decoder that was taken over has only its one file, its memory, its clock and the socket it answers
on.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import resource
import struct
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, Literal

from ..protocol import Limits

SandboxMode = Literal["auto", "require", "off"]
Layer = Literal["landlock", "seccomp"]

LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446
READ_FILE, READ_DIR = 1 << 2, 1 << 3
FS_RIGHTS_BY_ABI = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
"""How many file rights (bits from 0) each Landlock ABI knows. ABIs after 5 add none."""
NET_BIND_AND_CONNECT_TCP = 0b11
SCOPE_ABSTRACT_SOCKETS_AND_SIGNALS = 0b11

PR_SET_PDEATHSIG, PR_SET_NAME, PR_GET_NAME, PR_SET_NO_NEW_PRIVS = 1, 15, 16, 38
CLONE_THREAD = 0x10000
WORKER_FILES = 64
"""RLIMIT_NOFILE of a worker."""

_libc = ctypes.CDLL(None, use_errno=True)

# What Python, FFmpeg, decord and c2pa call once they are imported. Any other call gets ENOSYS. The C library has
# fallbacks for that (from clone3 to clone, for example), so a newer C library does not break.
ALLOWED = """
read readv pread64 preadv preadv2 write writev pwrite64 close close_range lseek fadvise64 readahead
stat fstat lstat newfstatat statx statfs fstatfs access faccessat faccessat2 readlink readlinkat getdents64 getcwd
mmap munmap mremap mprotect madvise brk mincore msync
futex futex_wait futex_wake futex_waitv futex_requeue set_robust_list get_robust_list rseq set_tid_address
membarrier getcpu
exit exit_group sched_yield sched_getaffinity sched_getparam sched_getscheduler sched_get_priority_min
sched_get_priority_max restart_syscall
getpid gettid getppid getuid geteuid getgid getegid getrusage getrlimit times sysinfo uname getrandom
clock_gettime clock_getres clock_nanosleep nanosleep gettimeofday time
rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending sigaltstack
pipe pipe2 poll ppoll select pselect6 epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2 eventfd2
timerfd_create timerfd_settime dup dup2 dup3 recvfrom recvmsg shutdown
"""
# The calls that an attacker wants most get "permission denied" instead of "no such call": the honest message in a log.
REFUSED = """
socket socketpair connect bind listen accept accept4 sendmsg sendmmsg execve execveat fork vfork ptrace
process_vm_readv process_vm_writev kill tkill pidfd_open pidfd_getfd pidfd_send_signal mount umount2 pivot_root chroot
unshare setns bpf perf_event_open keyctl add_key request_key userfaultfd io_uring_setup memfd_create shmget unlink
unlinkat rename renameat renameat2 link linkat symlink symlinkat mkdir mkdirat rmdir chmod fchmod fchmodat chown
fchown truncate ftruncate setuid setgid setresuid setresgid open_by_handle_at
"""


def available() -> tuple[Layer, ...]:
    """The sandbox layers that this host has. Puts none of them in force."""
    layers: list[Layer] = []
    if landlock_abi() >= 1:
        layers.append("landlock")
    try:
        import pyseccomp  # noqa: F401  (raises RuntimeError where libseccomp is missing)
    except (ImportError, RuntimeError, OSError):
        pass
    else:
        layers.append("seccomp")
    return tuple(layers)


def landlock_abi() -> int:
    """The kernel's Landlock ABI; 0 if there is none (not built in, switched off, or refused by a container)."""
    if not sys.platform.startswith("linux"):
        return 0
    return max(0, _libc.syscall(LANDLOCK_CREATE_RULESET, None, 0, 1))


def limit_resources(limits: Limits) -> None:
    """Limits this process's memory, CPU time, files and core dumps for good."""
    for kind, soft, hard in (
        (resource.RLIMIT_AS, limits.memory_bytes, limits.memory_bytes),
        # At the soft limit SIGXCPU says why; at the hard one SIGKILL says nothing.
        (resource.RLIMIT_CPU, limits.cpu_seconds, limits.cpu_seconds + 5),
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_FSIZE, limits.item_bytes, limits.item_bytes),
        (resource.RLIMIT_NOFILE, WORKER_FILES, WORKER_FILES),
    ):
        ceiling = resource.getrlimit(kind)[1]
        if ceiling != resource.RLIM_INFINITY:
            soft, hard = min(soft, ceiling), min(hard, ceiling)
        resource.setrlimit(kind, (soft, hard))
    try:  # if memory runs out all the same, the kernel should kill the worker and not the parent
        with open("/proc/self/oom_score_adj", "w") as score:
            score.write("1000")
    except OSError:
        pass


def die_with_parent(parent_pid: int) -> None:
    """Has the kernel kill this process when the thread that started it ends. Exits now if it has already ended."""
    import signal

    _libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent_pid:
        os._exit(0)


def confine(path: str, layers: Sequence[str]) -> None:
    """Puts `layers` in force for this process. It may then read `path` and the system's libraries only.

    This cannot be undone. Raises OSError if the kernel refuses, or if `path` cannot be opened.
    """
    prepare(layers)
    if "landlock" in layers:
        allow_reading([path], system_paths())
    if "seccomp" in layers:
        filter_system_calls()


def prepare(layers: Sequence[str]) -> None:
    """Does in advance what each worker need not repeat (7 of 10 ms), and what Landlock would refuse: pyseccomp runs
    programs to find its library."""
    system_paths()
    if "seccomp" in layers:
        _system_call_rules()


@cache
def system_paths() -> list[str]:
    """What a process may open once its modules are loaded: shared libraries, Python's own files, the time zone."""
    paths = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", "/etc/localtime", "/usr/share/zoneinfo"]
    paths += ["/dev/null", "/dev/urandom", "/sys/devices/system/cpu"]
    paths += [os.path.join(prefix, "lib") for prefix in (sys.prefix, sys.base_prefix)]
    paths += [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    for name in ("numpy", "av", "decord", "c2pa"):  # they may be installed elsewhere
        module = sys.modules.get(name)
        if module is not None and module.__file__:
            paths.append(os.path.dirname(module.__file__))
    return sorted({path for path in paths if os.path.exists(path)})


def allow_reading(files: Iterable[str], system: Iterable[str]) -> None:
    """Landlock: from now on only `files` and what lies under `system` may be opened, and only for reading."""
    abi = landlock_abi()
    handled = (1 << FS_RIGHTS_BY_ABI.get(abi, 16)) - 1
    attributes = struct.pack("=Q", handled)
    if abi >= 4:
        attributes += struct.pack("=Q", NET_BIND_AND_CONNECT_TCP)
    if abi >= 6:
        attributes += struct.pack("=Q", SCOPE_ABSTRACT_SOCKETS_AND_SIGNALS)
    ruleset = _checked(_libc.syscall(LANDLOCK_CREATE_RULESET, ctypes.c_char_p(attributes), len(attributes), 0))
    try:
        for path in (*files, *system):
            beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
            try:
                rights = READ_FILE | (READ_DIR if os.path.isdir(path) else 0)
                rule = struct.pack("=Qi", rights, beneath)
                _checked(_libc.syscall(LANDLOCK_ADD_RULE, ruleset, 1, ctypes.c_char_p(rule), 0))
            finally:
                os.close(beneath)
        _checked(_libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        _checked(_libc.syscall(LANDLOCK_RESTRICT_SELF, ruleset, 0))
    finally:
        os.close(ruleset)


def filter_system_calls() -> None:
    """seccomp: an allow-list; no sockets, no programs, no other processes, no files opened for writing."""
    import pyseccomp as seccomp

    rules = _system_call_rules()
    # for abort() and raise() on itself
    rules.add_rule(seccomp.ALLOW, "tgkill", seccomp.Arg(0, seccomp.EQ, os.getpid()))
    rules.load()


@cache
def _system_call_rules() -> Any:
    import pyseccomp as seccomp

    rules = seccomp.SyscallFilter(seccomp.ERRNO(errno.ENOSYS))
    arch = seccomp.system_arch()

    def add(action: int, name: str, *arguments: seccomp.Arg) -> None:
        if seccomp.resolve_syscall(arch, name) >= 0:  # `open`, `stat`, … do not exist on aarch64
            rules.add_rule(action, name, *arguments)

    for name in ALLOWED.split():
        add(seccomp.ALLOW, name)
    for name in REFUSED.split():
        add(seccomp.ERRNO(errno.EACCES), name)

    mask, equal = seccomp.MASKED_EQ, seccomp.EQ
    writing = os.O_ACCMODE | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    add(seccomp.ALLOW, "open", seccomp.Arg(1, mask, writing, 0))
    add(seccomp.ALLOW, "openat", seccomp.Arg(2, mask, writing, 0))
    for name, position in (("open", 1), ("openat", 2)):
        for flag in (os.O_WRONLY, os.O_RDWR):
            add(seccomp.ERRNO(errno.EACCES), name, seccomp.Arg(position, mask, os.O_ACCMODE, flag))
    add(seccomp.ALLOW, "clone", seccomp.Arg(0, mask, CLONE_THREAD, CLONE_THREAD))
    add(seccomp.ERRNO(errno.EACCES), "clone", seccomp.Arg(0, mask, CLONE_THREAD, 0))
    add(seccomp.ALLOW, "sendto", seccomp.Arg(4, equal, 0))  # only on the connected socket: no address
    add(seccomp.ALLOW, "prlimit64", seccomp.Arg(0, equal, 0))
    for option in (PR_SET_NAME, PR_GET_NAME):
        add(seccomp.ALLOW, "prctl", seccomp.Arg(0, equal, option))
    # Not F_SETOWN and similar commands: they make the kernel send signals to other processes.
    for command in (fcntl.F_DUPFD, fcntl.F_DUPFD_CLOEXEC, fcntl.F_GETFD, fcntl.F_SETFD, fcntl.F_GETFL, fcntl.F_SETFL):
        add(seccomp.ALLOW, "fcntl", seccomp.Arg(1, equal, command))
    for request in (0x5401, 0x5421, 0x541B, 0x5450, 0x5451):  # TCGETS (isatty), FIONBIO, FIONREAD, FIONCLEX, FIOCLEX
        add(seccomp.ALLOW, "ioctl", seccomp.Arg(1, mask, 0xFFFFFFFF, request))
    return rules


def _checked(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"the kernel refused the sandbox: {os.strerror(code)}")
    return result
