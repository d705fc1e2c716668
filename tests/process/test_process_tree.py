"""Finding and signaling all processes below a root."""

import os
import signal
from pathlib import Path

import psutil
import pytest

from supervisor.machine.process_tree import NamespaceTree, ProcessTree
from tests.helpers.forked_tree import ForkedTree
from tests.helpers.named_pipes import Lifeline
from tests.helpers.wait import wait_until

SHAPES = [
    ("obedient", 2),
    ("sessions", 3),
    ("daemon", 2),
    ("groups", 41),
    ("chain", 12),
    ("twenty_one", 21),
    ("replace_the_dead", 41),
]


def kill_all(tree: ProcessTree, root: ForkedTree) -> None:
    """Kill in rounds until the root has seen the last one end."""
    wait_until(lambda: tree.kill() == 0 and not root.lives())


@pytest.mark.parametrize(("shape", "processes"), SHAPES)
def test_kill_all_below_the_root_end_at_once_and_the_root_is_spared(
    lifeline: Lifeline, shape: str, processes: int
) -> None:
    with ForkedTree(shape, lifeline, processes) as root:
        tree = ProcessTree(root.pid)
        assert len(tree.members()) == processes
        assert tree.kill() == processes
        assert root.wait() == 0
        assert lifeline.ended()
        assert len(tree.killed) == len(lifeline.lines) == processes


def test_members_by_the_list_of_a_group_are_its_processes_but_the_root_and_strangers(
    lifeline: Lifeline, tmp_path: Path
) -> None:
    with ForkedTree("sessions", lifeline, 3) as root:
        members = {process.pid for process in ProcessTree(root.pid).members()}
        listed = tmp_path / "cgroup.procs"
        # Ours is a pid that a stranger has got since the list was read.
        listed.write_text("".join(f"{pid}\n" for pid in (root.pid, *members, os.getpid())))
        tree = NamespaceTree(root.pid, members_file=str(listed))
        assert {process.pid for process in tree.members()} == members
        listed.unlink()
        assert {process.pid for process in tree.members()} == members
        assert tree.kill() == 3
        root.wait()
        listed.write_text(f"{os.getpid()}\n")
        assert tree.members() == []


@pytest.mark.parametrize("shape", ["bomb", "hopper", "session_hopper"])
def test_kill_those_that_keep_forking_end_after_some_rounds(lifeline: Lifeline, shape: str) -> None:
    with ForkedTree(shape, lifeline, 1) as root:
        kill_all(ProcessTree(root.pid), root)
        assert root.wait() == 0
        assert lifeline.ended()


def test_kill_one_in_the_session_of_the_root_spares_the_root(lifeline: Lifeline) -> None:
    with ForkedTree("obedient", lifeline, 2, own_session=False) as root:
        assert ProcessTree(root.pid).kill() == 2
        assert root.wait() == 0


def test_kill_nobody_there_continues_a_root_that_was_stopped(lifeline: Lifeline) -> None:
    with ForkedTree("stop_the_parent", lifeline, 1) as root:
        tree = ProcessTree(root.pid)
        assert tree.kill() == 1
        wait_until(lambda: not tree.members())
        assert psutil.Process(root.pid).status() == psutil.STATUS_STOPPED
        assert tree.kill() == 0
        assert root.wait() == 0


def test_kill_root_ends_also_one_that_is_stopped(lifeline: Lifeline) -> None:
    with ForkedTree("stop_the_parent", lifeline, 1) as root:
        tree = ProcessTree(root.pid)
        tree.kill()
        tree.kill_root()
        assert root.wait() == -signal.SIGKILL


@pytest.mark.parametrize(("shape", "processes"), [("obedient", 2), ("stopped", 2)])
def test_terminate_all_are_asked_also_the_stopped_ones(lifeline: Lifeline, shape: str, processes: int) -> None:
    with ForkedTree(shape, lifeline, processes) as root:
        tree = ProcessTree(root.pid)
        assert tree.terminate() == processes
        assert root.wait() == 0
        assert not tree.killed


def test_terminate_those_that_ignore_it_live(lifeline: Lifeline) -> None:
    with ForkedTree("daemon", lifeline, 2) as root:
        tree = ProcessTree(root.pid)
        assert tree.terminate() == 2
        assert len(tree.members()) == 2
        kill_all(tree, root)
        root.wait()


def test_tree_whose_root_has_ended_is_empty_and_takes_no_signal(lifeline: Lifeline) -> None:
    with ForkedTree("obedient", lifeline, 2) as root:
        tree = ProcessTree(root.pid)
        tree.terminate()
        root.wait()
        assert (tree.members(), tree.terminate(), tree.kill()) == ([], 0, 0)
        tree.kill_root()


def test_members_a_zombie_is_none(lifeline: Lifeline) -> None:
    with ForkedTree("stop_the_parent", lifeline, 1) as root:
        tree = ProcessTree(root.pid)
        (member,) = tree.members()
        member.kill()
        wait_until(lambda: not tree.members())
        assert member.status() == psutil.STATUS_ZOMBIE
        os.kill(root.pid, signal.SIGCONT)
        assert root.wait() == 0
