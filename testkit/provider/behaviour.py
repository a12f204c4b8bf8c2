"""How the provider answers: its pace, and the named fault that it was told to have. No I/O.

The standing behaviour holds for every request. An exception holds for the next `times` requests whose body
contains `match`, so that a test can pace its own request and leave all others alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from typing import Any, Self


class Fault(StrEnum):
    """What can be wrong with a provider. `after` counts events of a stream; a whole answer breaks before its end."""

    REFUSE = "refuse"  # nobody listens on the TLS port
    RESET = "reset"  # TCP RST after `after` events
    STALL = "stall"  # silence after `after` events, until released or left
    TRUNCATE = "truncate"  # `after` events and half of the next, then the connection is closed
    ERROR_EVENT = "error_event"  # an error event after `after` events, then the end
    STATUS = "status"  # answers `status` with `headers`, and `body` where one is given
    SLOW_FIRST_BYTE = "slow_first_byte"  # `first_byte_ms` of silence before the status line


@dataclass(frozen=True)
class Behaviour:
    """The settings of one answer; the names are those of the control API."""

    events: int = 24
    gap_ms: float = 40
    hold: bool = False  # after the last delta, keep-alives every gap_ms until released
    fault: Fault | None = None
    after: int = 3
    status: int = 529
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str | None = None
    first_byte_ms: float = 3000
    usage: Mapping[str, int] = field(default_factory=dict)

    def changed(self, settings: Mapping[str, Any]) -> Self:
        """Give this behaviour with some settings changed, or raise ValueError that names the wrong one."""
        known = {setting.name for setting in fields(self)}
        for name in settings:
            if name not in known:
                raise ValueError(f"unknown setting {name!r}; there are: {', '.join(sorted(known))}")
        fault = settings.get("fault", self.fault)
        if fault is not None and fault not in list(Fault):
            raise ValueError(f"unknown fault {fault!r}; there are: {', '.join(Fault)}")
        return replace(self, **{**settings, "fault": fault and Fault(fault)})


@dataclass
class Exceptional:
    """A behaviour for some requests only."""

    behaviour: Behaviour
    match: str
    times: int


class Behaviours:
    """The standing behaviour and its exceptions."""

    def __init__(self, default: Behaviour) -> None:
        """Start with the default of the configuration."""
        self._default = default
        self.standing = default
        self._exceptions: list[Exceptional] = []

    def set(self, settings: Mapping[str, Any]) -> None:
        """Replace the standing behaviour: the default with these changes."""
        self.standing = self._default.changed(settings)

    def add_exception(self, settings: Mapping[str, Any]) -> None:
        """Add an exception: the default with these changes, for the next `times` requests that hold `match`."""
        own = dict(settings)
        match, times = str(own.pop("match", "")), int(own.pop("times", 1))
        behaviour = self._default.changed(own)
        if behaviour.fault is Fault.REFUSE:
            raise ValueError("refuse has no exceptions: the listener is there for all or for none")
        self._exceptions.append(Exceptional(behaviour, match, times))

    def reset(self) -> None:
        """Forget all that was set."""
        self.standing = self._default
        self._exceptions.clear()

    def choose(self, body: bytes) -> Behaviour:
        """Give the behaviour for a request, using up an exception that fits."""
        for exceptional in self._exceptions:
            if exceptional.match.encode() in body:
                exceptional.times -= 1
                if exceptional.times < 1:
                    self._exceptions.remove(exceptional)
                return exceptional.behaviour
        return self.standing

    def as_json(self) -> dict[str, Any]:
        """Give what GET /_behaviour shows."""
        exceptions = [{**asdict(one.behaviour), "match": one.match, "times": one.times} for one in self._exceptions]
        return {**asdict(self.standing), "exceptions": exceptions}
