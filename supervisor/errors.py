"""Faults that are ours, the host's or the caller's. What an agent does wrong is a value: models.Termination."""


class CorralError(Exception):
    """Base of all; its text reads "cannot <verb> <thing>: <reason>"."""


class ConfigurationError(CorralError):
    """A setting, a flag or the data directory is not usable; the server does not start."""


class AgentUnknown(CorralError):
    """No agent has this id or name."""


class AgentBroken(CorralError):
    """The agent's manifest cannot be used as it is."""


class SandboxUnavailable(CorralError):
    """This machine cannot isolate the agent as it has to be."""


class StoreError(CorralError):
    """The database refused or could not do the work; nothing of it was recorded."""


class SupervisorSilent(CorralError):
    """The supervisor that was asked is not there, or does not answer."""


class StoreBusy(StoreError):
    """Another process has kept the database from being used for longer than one waits."""


class StoreDamaged(StoreError):
    """The content of the database file cannot be trusted; nothing is written to it any more."""


class KeyReused(CorralError):
    """The idempotency key stands for another request."""


class BackupError(CorralError):
    """The copy of a database cannot be written."""


class ExecutionUnknown(StoreError):
    """No execution has this id."""


class AttemptUnknown(CorralError):
    """The execution has had no attempt of this number."""


class FileUnknown(CorralError):
    """No run of the execution has left a file of this name that was kept."""


class AttemptStale(StoreError):
    """The attempt is not the live one of its execution, or is another supervisor's."""


class Superseded(CorralError):
    """Another supervisor has taken over the data folder; this one must not record or start anything any more."""


class InvalidTransition(CorralError):
    """The event is not possible in the execution's status."""


class InvalidJson(CorralError):
    """A text is not JSON as Corral accepts it."""
