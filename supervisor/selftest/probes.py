"""The probes, as a table: what each tries, and what must come of it. What it does is in hostile/."""

import json
from dataclasses import dataclass, field

from supervisor.selftest.checks import Check, attempts_end_in, either, ends_as, logs_at_most
from supervisor.states import Cause

_MEBIBYTE = 1 << 20

_LOG_BYTES = 64 << 10

# Small ones: enough for Python, and little to lose where they do not hold.
_LIMITS = {
    "memory_bytes": 64 * _MEBIBYTE,
    "processes": 16,
    "open_files": 64,
    "disk_bytes": 4 * _MEBIBYTE,
    "log_bytes": _LOG_BYTES,
    "result_bytes": 64 << 10,
}
_TIMEOUT_SECONDS = 20.0

# For all probes together, side by side.
PATIENCE_SECONDS = 90.0

_GRACE_SECONDS = 0.2


@dataclass(frozen=True, eq=False)
class Probe:
    """One thing that is tried.

    name: also of its function in hostile/. tries, expected: for people. checks: what must hold at its end.
    canceled: as soon as it tells progress. accompanies: it is there until all others have ended, and canceled then.
    layer: the one of the sandbox that does this alone; on a host without it nothing is promised.
    """

    name: str
    tries: str
    expected: str
    checks: tuple[Check, ...]
    canceled: bool = False
    accompanies: bool = False
    layer: str | None = None
    limits: dict[str, int] = field(default_factory=dict)
    timeout_seconds: float = _TIMEOUT_SECONDS

    def manifest(self, tier: str) -> str:
        """Return the agent.toml of the agent that makes it."""
        limits = "".join(f"{name} = {amount}\n" for name, amount in (_LIMITS | self.limits).items())
        return (
            f'entrypoint = "hostile.agent:run"\ndescription = {json.dumps(self.tries)}\n'
            f"timeout_seconds = {self.timeout_seconds}\ngrace_seconds = {_GRACE_SECONDS}\n"
            f"[limits]\n{limits}[sandbox]\ntier = {json.dumps(tier)}\n"
        )


_DONE = attempts_end_in("done")
_NOT_THERE = attempts_end_in("ENOENT", "EACCES")
_REFUSED = attempts_end_in("EPERM", "EACCES", "ENOSYS")
_NO_ADDRESS_FAMILY = attempts_end_in("EAFNOSUPPORT")
_CANCELED = ends_as(Cause.CANCELED)
_OUT_OF_MEMORY = ends_as(Cause.MEMORY)

ORDINARY = Probe(
    "ordinary",
    "writes a file and starts a shell, as any agent may, after all the others",
    "it completes",
    (_DONE,),
)

# Of no agent.
AFTERWARDS = Probe(
    "afterwards",
    "the server is stopped",
    "no process of it or of a probe lives",
    (),
)

PROBES = (
    Probe(
        "read_files",
        "reads a file that is open to all users, the server's data, /etc/shadow",
        "not there",
        (_NOT_THERE,),
    ),
    Probe(
        "write_files",
        "writes to such a file, to its own code, to /usr, /etc, /dev and /proc/sys",
        "refused",
        (attempts_end_in("EROFS", "EACCES", "ENOENT"),),
    ),
    Probe(
        "other_processes",
        "looks for processes of the machine, and signals one",
        "it finds nobody but itself",
        (attempts_end_in("nobody", "ESRCH"),),
    ),
    Probe(
        "read_secret",
        "looks for a variable of the server's environment, also in its own memory",
        "not found",
        (attempts_end_in("nothing"),),
    ),
    Probe(
        "loopback",
        "connects to TCP ports of the machine: one of the selftest, and the API",
        "refused, and nobody has connected",
        (_NO_ADDRESS_FAMILY,),
    ),
    Probe(
        "abstract_socket",
        "connects to an abstract Unix socket of the machine",
        "refused, and nobody has connected",
        (attempts_end_in("ECONNREFUSED"),),
    ),
    Probe("launcher_socket", "connects to the launcher", "not there", (_NOT_THERE,)),
    Probe(
        "socket_families",
        "makes internet, netlink, packet, crypto and vsock sockets",
        "refused",
        (_NO_ADDRESS_FAMILY,),
    ),
    Probe(
        "signal_everyone",
        "signals everyone, and process 1 with SIGKILL, if these are its sandbox's",
        "nobody notices",
        (attempts_end_in("done", "ESRCH", "EPERM"),),
    ),
    Probe(
        "trace",
        "traces its parent, and opens its memory and the server's",
        "refused",
        (attempts_end_in("EPERM", "ENOENT"),),
    ),
    Probe(
        "privileges",
        "looks for capabilities and set-user-id programs, and becomes root",
        "none; ignored; refused",
        (attempts_end_in("none", "ignored", "EPERM", "EINVAL"),),
    ),
    Probe("namespaces", "makes namespaces", "refused", (_REFUSED,)),
    Probe(
        "forbidden_calls",
        "calls mount, chroot, bpf, io_uring and others of the filter's list",
        "refused",
        (_REFUSED,),
    ),
    Probe(
        "raise_limits",
        "raises its limits and its priority",
        "refused",
        (attempts_end_in("ValueError", "EPERM", "EACCES"),),
    ),
    Probe("daemon", "leaves a process in a session of its own", "dead when the agent has ended", (_DONE,)),
    Probe(
        "ignore_signals",
        "ignores every signal, and is canceled",
        "killed",
        (_CANCELED,),
        canceled=True,
    ),
    Probe("stop_itself", "stops itself with SIGSTOP, and is canceled", "killed", (_CANCELED,), canceled=True),
    Probe(
        "hop",
        "forks, exits and changes its session without pause, and is canceled",
        "killed",
        (_CANCELED,),
        canceled=True,
    ),
    Probe(
        "processes",
        "starts 64 processes where 16 are allowed",
        "refused at the limit",
        (attempts_end_in("EAGAIN"),),
    ),
    Probe(
        "memory",
        "takes 128 MiB of memory where 64 are allowed",
        "MEMORY, or MemoryError",
        (either(_OUT_OF_MEMORY, attempts_end_in("MemoryError")),),
    ),
    Probe(
        "memory_of_children",
        "takes as much in eight processes together",
        "MEMORY",
        (_OUT_OF_MEMORY,),
        layer="cgroup",
    ),
    Probe(
        "memory_outside",
        "takes as much in files without a name, which are no process's",
        "MEMORY, or refused",
        (either(_OUT_OF_MEMORY, _REFUSED),),
    ),
    Probe(
        "disk",
        "writes 16 MiB to each of its places where 4 are allowed",
        "full at the limit",
        (attempts_end_in("ENOSPC"),),
    ),
    Probe(
        "open_files",
        "opens 256 files where 64 are allowed",
        "refused at the limit",
        (attempts_end_in("EMFILE"),),
    ),
    Probe(
        "cpu_time",
        "computes for longer than its second of CPU time",
        "CPU_TIME",
        (ends_as(Cause.CPU_TIME),),
        limits={"cpu_seconds": 1},
    ),
    Probe(
        "wall_time",
        "stays longer than its second",
        "WALL_TIME",
        (ends_as(Cause.WALL_TIME),),
        timeout_seconds=1.0,
    ),
    Probe(
        "flood",
        "prints 4 MiB where 64 KiB are kept",
        "no more is kept",
        (_DONE, logs_at_most(_LOG_BYTES)),
    ),
    Probe(
        "large_result",
        "returns 1 MiB where 64 KiB are allowed",
        "RESULT_TOO_LARGE",
        (ends_as(Cause.RESULT_TOO_LARGE),),
    ),
    Probe("not_a_number", "gives a result with NaN in it", "RESULT_INVALID", (ends_as(Cause.RESULT_INVALID),)),
    Probe("two_results", "gives two results", "RESULT_INVALID", (ends_as(Cause.RESULT_INVALID),)),
    Probe("deep_result", "gives a result of 5,000 levels", "RESULT_INVALID", (ends_as(Cause.RESULT_INVALID),)),
    Probe(
        "close_everything",
        "closes its descriptors and exits",
        "NO_RESULT",
        (ends_as(Cause.NO_RESULT),),
    ),
    Probe("leave_silently", "exits without a result", "NO_RESULT", (ends_as(Cause.NO_RESULT),)),
    Probe(
        "bystander",
        "is there while all the others run",
        "unharmed, until it is canceled at the end",
        (_CANCELED,),
        accompanies=True,
        timeout_seconds=PATIENCE_SECONDS,
    ),
)
