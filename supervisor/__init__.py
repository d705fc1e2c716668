"""The head of Corral: records, order and decisions; supervisor.machine holds everything that touches a process."""

__version__ = "0.1.0"
