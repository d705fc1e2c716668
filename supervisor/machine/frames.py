"""Reading what an agent says on its result channel: bounded, incremental, and trusting nothing."""

from supervisor import strict_json
from supervisor.errors import InvalidJson
from supervisor.machine.stopper import Reason
from supervisor.states import Cause

# Progress is for people to look at; what is large belongs into the result.
PROGRESS_BYTES = 64 << 10

# Of more lines than this in one read, progress that is overtaken in the same read is passed over without being parsed:
# else an agent that does nothing but tell would keep the loop from all other runs.
_MOST_PARSED = 100
_PROGRESS_PREFIX = b'{"progress"'

# What a frame has around its value: {"unencodable":…}.
_ENVELOPE_BYTES = 64

# An error frame carries a traceback, which runner/agent.py cuts at 64 KiB; escapes can make it six times as long.
_ERROR_BYTES = 6 * 65 << 10


class ResultChannel:
    """What both ways of giving a result have in common.

    result: JSON text of an object, once it was read whole. error: (message, traceback) that the agent gave instead;
    exhausted: name of the limit that this is about, if it says so.
    fault: the first thing that broke the rules; nothing is looked at after it.
    settled: offset in what is said: who reads it again from there misses nothing but progress that is overtaken.
    """

    def __init__(self, limit_bytes: int, begin: int = 0) -> None:
        """Args: begin: offset of the first byte that is going to be fed."""
        self._limit = limit_bytes
        self._end = begin
        self.settled = begin
        self._buffer = bytearray()
        self.result: str | None = None
        self.error: tuple[str, str] | None = None
        self.exhausted: str | None = None
        self.fault: Reason | None = None

    def _take_result(self, value: object) -> None:
        if not isinstance(value, dict):
            self._invalid(f"it is {_kind(value)}, and must be an object")
            return
        try:
            text = strict_json.dump(value)
        except InvalidJson as error:
            self._invalid(str(error))
            return
        if len(text.encode()) > self._limit:
            self._too_large()
            return
        self.result = text

    def _invalid(self, reason: str) -> None:
        self._refuse(Reason(Cause.RESULT_INVALID, f"The result is not valid: {reason}.", "agent"))

    def _too_large(self) -> None:
        message = f"The result is larger than its limit of {self._limit} bytes."
        self._refuse(Reason(Cause.RESULT_TOO_LARGE, message, "limit", {"result_bytes": self._limit}))

    def _refuse(self, fault: Reason) -> None:
        self.fault = fault
        self.result = None
        self._buffer.clear()


class FrameReader(ResultChannel):
    """Frames: one JSON object per line, any number of progress, then one result or error."""

    def feed(self, data: bytes) -> list[tuple[str, int]]:
        """Take in bytes; return the progress values among them, as (JSON text, offset of what follows it), in order."""
        if self.fault:
            return []
        self._buffer += data
        self._end += len(data)
        lines = self._whole_lines() if b"\n" in data else []
        progress = []
        for line, end in _worth_parsing(lines):
            for text in self._take_line(line):
                progress.append((text, end))
                self.settled = end - len(line) - 1
        if len(self._buffer) > self._line_limit:
            self._too_large()
        return progress

    def finish(self) -> None:
        """The channel is at its end: what is left must be a whole last line."""
        if self._buffer.strip():
            self._take_line(bytes(self._buffer), ended=False)

    def _whole_lines(self) -> list[tuple[bytes, int]]:
        """Return (line, offset of what follows it) of each line that is whole, and keep the rest."""
        end = self._end - len(self._buffer)
        *lines, rest = bytes(self._buffer).split(b"\n")
        self._buffer[:] = rest
        found = []
        for line in lines:
            end += len(line) + 1
            found.append((line, end))
        return found

    @property
    def _line_limit(self) -> int:
        return max(self._limit, _ERROR_BYTES) + _ENVELOPE_BYTES

    def _take_line(self, line: bytes, ended: bool = True) -> list[str]:
        if self.fault:
            return []
        if self.result is not None or self.error is not None:
            self._invalid("something follows it")
            return []
        try:
            frame = strict_json.parse(line)
        except InvalidJson as error:
            self._invalid(str(error) if ended else "it ends in the middle of a line")
            return []
        if not isinstance(frame, dict) or len(frame) != 1:
            self._invalid("a line is not an object with exactly one key")
            return []
        ((kind, value),) = frame.items()
        if kind == "progress":
            return self._take_progress(value)
        self._take_end(kind, value, len(line))
        return []

    def _take_end(self, kind: str, value: object, size: int) -> None:
        if kind == "result":
            if size > self._limit + _ENVELOPE_BYTES:
                self._too_large()
            else:
                self._take_result(value)
        elif kind == "error" and isinstance(value, dict):
            message = _text(value.get("message", ""))
            self.error = (message, _text(value.get("traceback") or message))
            self.exhausted = _text(value.get("limit", ""))
        elif kind == "unencodable":
            self._invalid(f"it cannot be written as JSON ({_text(value)})")
        else:
            self._invalid(f"{kind[:40]!r} is not a kind of frame")

    def _take_progress(self, value: object) -> list[str]:
        try:
            text = strict_json.dump(value)
        except InvalidJson as error:
            self._invalid(f"in a progress frame, {error}")
            return []
        if len(text.encode()) > PROGRESS_BYTES:
            message = f"A progress frame is larger than the limit of {PROGRESS_BYTES} bytes."
            self._refuse(Reason(Cause.RESULT_TOO_LARGE, message, "limit", {"progress_bytes": PROGRESS_BYTES}))
            return []
        return [text]


class WholeOutput(ResultChannel):
    """The whole of stdout is one JSON document."""

    def feed(self, data: bytes) -> list[tuple[str, int]]:
        """Take in bytes; there is never any progress to return."""
        if self.fault:
            return []
        self._buffer += data
        if len(self._buffer) > self._limit + _ENVELOPE_BYTES:
            self._too_large()
        return []

    def finish(self) -> None:
        """The channel is at its end: parse what came."""
        if self.fault or not self._buffer.strip():
            return
        try:
            self._take_result(strict_json.parse(bytes(self._buffer)))
        except InvalidJson as error:
            self._invalid(str(error))


def _worth_parsing(lines: list[tuple[bytes, int]]) -> list[tuple[bytes, int]]:
    frames = [(line, end) for line, end in lines if line.strip()]
    if len(frames) <= _MOST_PARSED:
        return frames
    followed = zip(frames, [*frames[1:], (b"", 0)], strict=True)
    return [one for one, next_one in followed if not (_is_progress(one[0]) and _is_progress(next_one[0]))]


def _is_progress(line: bytes) -> bool:
    return line.startswith(_PROGRESS_PREFIX)


def _text(value: object) -> str:
    """Return a text from an agent without the half surrogate pairs and NULs that JSON escapes can smuggle in."""
    return str(value).encode("utf-8", "replace").decode().replace("\x00", "\N{REPLACEMENT CHARACTER}")


def _kind(value: object) -> str:
    names = {str: "a text", bool: "true or false", int: "a number", float: "a number", list: "a list"}
    return names.get(type(value), "null")
