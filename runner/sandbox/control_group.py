"""The control group of one sandbox: its limits, what it counts, and whether anything lives in it.

Source: Documentation/admin-guide/cgroup-v2.rst, cgroup-v1/memory.rst, cgroup-v1/pids.rst, cgroup-v1/cpuacct.rst;
Documentation/scheduler/sched-bwc.rst.
"""

from __future__ import annotations

import contextlib
import os
import signal

from runner.sandbox import kernel
from runner.sandbox.kernel import read

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# Of each such time a group with a share of CPU time may run so much. Source: sched-bwc.rst; it is the kernel's default.
_CPU_PERIOD_MICROSECONDS = 100_000

# Version 1 refuses memory to a group that has come so near to its limit: memory is given out in batches of pages.
_NEARLY_BYTES = 1 << 20


class Group:
    """The group of one sandbox."""

    # What it is to the record of a run's isolation, whatever its limits.
    form: tuple[str, ...]
    # Files that take the memory limit, in this order, and others with what they take: once, and before each run. One
    # that is not there is passed over: swap may not be counted on this machine.
    memory_files: tuple[str, ...]
    fixed: tuple[tuple[str, str], ...] = ()
    renewed: tuple[tuple[str, str], ...] = ()
    # Files that take the share of CPU time, with what is written to them.
    cpu_files: tuple[tuple[str, str], ...]
    peak_file: str
    # File in the memory hierarchy, and the counters in it that tell of kills.
    kill_counters: tuple[str, tuple[str, ...]]

    def __init__(self, places: Mapping[str, str]) -> None:
        """Make it. Args: places: {controller: its path}; in version 2 all paths are the same."""
        self._places = places
        self.folders = tuple(dict.fromkeys(places.values()))
        self.has_cpu_share = False
        self._limits: tuple[int, int, float | None] | None = None
        self._earlier_peak = 0
        self._earlier_counts: dict[str, int] = {}
        self._earlier_times: dict[str, float] = {}
        try:
            for folder in self.folders:
                os.mkdir(folder)
        except OSError:
            for folder in self.folders:
                with contextlib.suppress(OSError):
                    os.rmdir(folder)
            raise

    def add(self, pid: int) -> None:
        """Put a process, and with it all that it will start, into the group."""
        for folder in self.folders:
            kernel.write(f"{folder}/cgroup.procs", str(pid))

    def limit(self, memory_bytes: int, processes: int, cpus: float | None) -> None:
        """Set what the members may use together, from now on; what was before does not count.

        Afterwards has_cpu_share tells whether cpus could be set.
        """
        limits = memory_bytes, processes, cpus
        if limits != self._limits:
            self._set(*limits)
            self._limits = limits
        self._write_memory(self.renewed)
        self._earlier_peak = self._peak() or 0
        self._earlier_counts = self._counts()
        self._earlier_times = self._times()

    def _set(self, memory_bytes: int, processes: int, cpus: float | None) -> None:
        self._write_memory([*((name, str(memory_bytes)) for name in self.memory_files), *self.fixed])
        kernel.write(f"{self._places['pids']}/pids.max", str(processes))
        if cpus is not None and "cpu" in self._places:
            self.has_cpu_share = self._share_cpu(cpus)

    def _write_memory(self, texts: Iterable[tuple[str, str]]) -> None:
        for name, text in texts:
            path = f"{self._places['memory']}/{name}"
            if os.path.exists(path):
                kernel.write(path, text)

    def _share_cpu(self, cpus: float) -> bool:
        quota = int(cpus * _CPU_PERIOD_MICROSECONDS)
        try:
            for name, text in self.cpu_files:
                kernel.write(f"{self._places['cpu']}/{name}", text.format(quota=quota, period=_CPU_PERIOD_MICROSECONDS))
        except OSError:  # for instance more than the group above has
            return False
        return True

    @property
    def layers(self) -> list[str]:
        """The layers of a run's isolation that it makes, with the limits that were set last."""
        return [*self.form, "cpu_share"] if self.has_cpu_share else list(self.form)

    def peak_memory_bytes(self) -> int | None:
        """Return the most memory that the members had together since the last limit().

        None if this kernel does not tell, or it was no more than at an earlier time: before Linux 6.12 version 2 cannot
        be made to forget that.
        """
        peak = self._peak()
        return None if peak is None or peak <= self._earlier_peak else peak

    def _peak(self) -> int | None:
        try:
            return int(read(f"{self._places['memory']}/{self.peak_file}"))
        except OSError:
            return None

    def counted(self) -> dict[str, int]:
        """Return what the kernel has counted since the last limit(), as runner.protocol has it."""
        return {name: count - self._earlier_counts.get(name, 0) for name, count in self._counts().items()}

    def cpu_times(self) -> dict[str, float]:
        """Return what all members have used since the last limit(): usage as in runner.protocol; {} if not counted."""
        return {name: seconds - self._earlier_times.get(name, 0) for name, seconds in self._times().items()}

    def cpu_seconds_before(self) -> float:
        """Return what all members had used at the last limit(); 0 if it is not counted."""
        return sum(self._earlier_times.values())

    def has_hit_its_limit(self) -> bool:
        """Tell whether memory was refused because of this group's own limit, not because of one above it."""
        return self.counted()["memory_limit_hits"] > 0

    def _counts(self) -> dict[str, int]:
        file, names = self.kill_counters
        kills = _counters(f"{self._places['memory']}/{file}")
        return {
            "killed_for_memory": sum(kills.get(name, 0) for name in names),
            "memory_limit_hits": self._limit_hits(),
            "refused_processes": _counters(f"{self._places['pids']}/pids.events").get("max", 0),
        }

    def _limit_hits(self) -> int:
        """Return how often memory was refused because of this group's limit; any number above 0 if that is unknown."""
        raise NotImplementedError

    def _times(self) -> dict[str, float]:
        return {}

    @property
    def cpu_file(self) -> str | None:
        """Path of the file that tells the CPU time of all members, gone ones too; None if nothing counts it."""
        return None

    def watch_memory(self) -> int | None:
        """Return a descriptor that is readable when the limit was hit; None if the kernel then kills all members."""
        return None

    def open_kill_switch(self) -> int | None:
        """Return a descriptor that kills all members when a "1" is written to it; None if this kernel has none."""
        return None

    @property
    def empty(self) -> bool:
        """Whether nothing lives in it."""
        return not self._members()

    def kill(self) -> None:
        """Send SIGKILL to all members."""
        for pid in self._members():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _members(self) -> list[int]:
        try:
            return [int(pid) for pid in read(f"{self._places['pids']}/cgroup.procs").split()]
        except FileNotFoundError:  # somebody has removed it: then nothing was in it
            return []


class GroupV2(Group):
    """A group of the unified hierarchy. Out of memory, the kernel kills all of it: half a tree is of no use."""

    form = ("cgroup", "cgroup_v2")
    memory_files = ("memory.max",)
    fixed = (("memory.swap.max", "0"), ("memory.oom.group", "1"))
    cpu_files = (("cpu.max", "{quota} {period}"),)
    peak_file = "memory.peak"
    kill_counters = ("memory.events", ("oom_kill", "oom_group_kill"))

    def _limit_hits(self) -> int:
        """As in Group. Source: cgroup-v2.rst, memory.events: that of the group that has hit its limit counts "oom"."""
        return _counters(f"{self._places['memory']}/memory.events").get("oom", 0)

    @property
    def cpu_file(self) -> str | None:
        """As in Group. Source: cgroup-v2.rst, cpu.stat: it is there whether the controller is or not."""
        return f"{self.folders[0]}/cpu.stat"

    def _times(self) -> dict[str, float]:
        told = _counters(f"{self.folders[0]}/cpu.stat")
        return {f"{kind}_cpu_seconds": told.get(f"{kind}_usec", 0) / 1e6 for kind in ("user", "system")}

    def open_kill_switch(self) -> int | None:
        """As in Group; a fork in the same moment is killed too. Source: cgroup-v2.rst, cgroup.kill, Linux 5.14."""
        try:
            return os.open(f"{self.folders[0]}/cgroup.kill", os.O_WRONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None

    @property
    def empty(self) -> bool:
        """As in Group. Source: cgroup-v2.rst, cgroup.events."""
        return not _counters(f"{self.folders[0]}/cgroup.events").get("populated")

    def kill(self) -> None:
        """As in Group: in one step where the kernel has it (Linux 5.14), so no fork can race with it."""
        try:
            kernel.write(f"{self.folders[0]}/cgroup.kill", "1")
        except FileNotFoundError:
            super().kill()


class GroupV1(Group):
    """A group in several hierarchies."""

    form = ("cgroup",)
    memory_files = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
    renewed = (("memory.max_usage_in_bytes", "0"),)
    cpu_files = (("cpu.cfs_period_us", "{period}"), ("cpu.cfs_quota_us", "{quota}"))
    peak_file = "memory.max_usage_in_bytes"
    kill_counters = ("memory.oom_control", ("oom_kill",))

    def _limit_hits(self) -> int:
        """As in Group, by the peak: memory.failcnt, which should tell, is always 0 on Linux 6.18."""
        memory = self._places["memory"]
        peak, limit = (_counters(f"{memory}/{name}") for name in (self.peak_file, self.memory_files[0]))
        return int(peak.get("", 0) >= limit.get("", 0) - _NEARLY_BYTES)

    @property
    def cpu_file(self) -> str | None:
        """As in Group. Source: cgroup-v1/cpuacct.rst."""
        return f"{self._places['cpuacct']}/cpuacct.usage" if "cpuacct" in self._places else None

    def _times(self) -> dict[str, float]:
        if "cpuacct" not in self._places:
            return {}
        told = _counters(f"{self._places['cpuacct']}/cpuacct.stat")
        return {f"{kind}_cpu_seconds": told.get(kind, 0) / os.sysconf("SC_CLK_TCK") for kind in ("user", "system")}

    def watch_memory(self) -> int | None:
        """As in Group: here the kernel kills one member only. Source: cgroup-v1/memory.rst, "OOM Control"."""
        memory = self._places["memory"]
        control = os.open(f"{memory}/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
        event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            kernel.write(f"{memory}/cgroup.event_control", f"{event} {control}")
        except OSError:
            os.close(event)
            raise
        finally:
            os.close(control)
        return event


def _counters(path: str) -> dict[str, int]:
    """Return {name: number} of a file with one pair in each line; {} if it is not there. A lone number has no name."""
    try:
        text = read(path)
    except OSError:
        return {}
    pairs = (line.rpartition(" ") for line in text.splitlines())
    return {name: int(number) for name, _, number in pairs}
