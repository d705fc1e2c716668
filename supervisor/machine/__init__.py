"""Everything that touches a process: pids, descriptors, signals and psutil stay in this package.

The head says start, stop and release; the machine answers with messages (models.Progress, Log, Finished), each of
which names its execution and attempt.
"""
