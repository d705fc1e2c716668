"""`corral agents new`: the folder of a small agent that runs."""

import re
from pathlib import Path

from supervisor.agents import MANIFEST
from supervisor.errors import ConfigurationError
from supervisor.manifest import NAME_PATTERN

_MANIFEST = """\
name = "{name}"
description = "Says how long a text is"
entrypoint = "agent:run"
timeout_seconds = 60
"""

_CODE = '''\
def run(input, context):
    """Return the result, a JSON object, for an input, a JSON object."""
    text = str(input.get("text", ""))
    context.progress({"step": "counting"})
    return {"characters": len(text), "words": len(text.split())}
'''


def create(agents: Path, name: str) -> Path:
    """Make an agent's folder and return it.

    Raises:
        ConfigurationError: the name cannot be an agent's, or there is such a folder already.
    """
    if not re.fullmatch(NAME_PATTERN, name):
        raise ConfigurationError(
            f"cannot make agent {name!r}: a name is 1 to 64 letters, digits, '.', '_' or '-', and begins with one of "
            "the first two"
        )
    folder = agents / name
    try:
        folder.mkdir(parents=True)
        # Whatever the umask: where the server is root, agents are another user of the host.
        folder.chmod(0o755)
        for file, text in (("agent.py", _CODE), (MANIFEST, _MANIFEST.format(name=name))):
            (folder / file).write_text(text)
            (folder / file).chmod(0o644)
    except FileExistsError:
        raise ConfigurationError(f"cannot make agent {name!r}: {folder} is there already") from None
    except OSError as error:
        raise ConfigurationError(f"cannot make agent {name!r}: {error}") from error
    return folder
