"""Another attempt after one that failed: when there is one, and when it may begin."""

import random
from collections.abc import Callable
from typing import Annotated, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from supervisor.clock import MICROSECONDS, Clock
from supervisor.states import Cause

# After these there is nothing to be tried again: the work is done, or nobody wants it any more.
_NEVER = frozenset({Cause.EXITED_OK, Cause.CANCELED})


def _code(value: object) -> Cause:
    """Return one of the codes after which there can be another attempt."""
    codes = {str(cause): cause for cause in Cause if cause not in _NEVER}
    if not isinstance(value, str) or value not in codes:
        raise ValueError(f"{value!r} is none of {', '.join(codes)}")
    return codes[value]


Code = Annotated[Cause, BeforeValidator(_code)]
Seconds = Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)]


class Retry(BaseModel):
    """The table retry of a manifest; docs/agents.md explains every key."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    max_attempts: Annotated[int, Field(ge=1, le=100)] = 1
    backoff_seconds: Seconds = 1.0
    backoff_max_seconds: Seconds = 60.0
    on: Annotated[tuple[Code, ...], Field(strict=False)] = (Cause.LOST,)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.model_fields_set and "max_attempts" not in self.model_fields_set:
            raise ValueError("max_attempts is needed: without it there is no other attempt")
        return self

    def allows(self, attempt: int, code: Cause) -> bool:
        """Tell whether there is another attempt after one with this number that has ended for this reason."""
        return attempt < self.max_attempts and code in self.on

    def longest_delay_seconds(self, attempt: int) -> float:
        """Return the longest time from the end of an attempt to the next one: doubled with each, up to the maximum."""
        return min(self.backoff_max_seconds, self.backoff_seconds * 2.0 ** (attempt - 1))


NO_RETRY = Retry()


class Backoff:
    """Chooses when the next attempt may begin: any time up to the longest delay, so that those which failed together
    do not come back together. Source: AWS Architecture Blog, "Exponential Backoff And Jitter", "full jitter".

    Its instants are on the wall clock as it was at the start: setting that clock neither holds up an attempt nor
    hurries it, until the server is started again.
    """

    def __init__(self, clock: Clock, chance: Callable[[], float] = random.random) -> None:
        """Args: chance: returns a number from 0 to 1, each as likely as the others."""
        self._clock = clock
        self._chance = chance
        self._offset_seconds = clock.now() / MICROSECONDS - clock.monotonic()

    def now(self) -> int:
        """Return the instant, in microseconds, that not_before() is to be compared with."""
        return round((self._clock.monotonic() + self._offset_seconds) * MICROSECONDS)

    def not_before(self, retry: Retry, attempt: int) -> int | None:
        """Return the instant before which the attempt that follows this one may not begin; None: at once."""
        delay = round(self._chance() * retry.longest_delay_seconds(attempt) * MICROSECONDS)
        return self.now() + delay if delay else None
