"""Listeners of a file of users, in locust's words: `@events.request.add_listener`.

`request` listeners are given what locust gives them (`request_type`, `name`, `response_time` in
ms, `response_length` in tokens, `exception`: the error's name or None) and the `record`;
`test_start` and `test_stop` listeners `environment=None`. Each worker has its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from loadtest.core import Record

Listener = TypeVar("Listener", bound=Callable[..., Any])


@dataclass(slots=True)
class Hook:
    """Something that is listened to."""

    listeners: list[Callable[..., Any]] = field(default_factory=list)

    def add_listener(self, listener: Listener) -> Listener:
        """Call it each time. Returns it, so that it may stand as a decorator."""
        self.listeners.append(listener)
        return listener

    def fire(self, **what: Any) -> None:
        """Call all listeners."""
        for listener in self.listeners:
            listener(**what)


@dataclass(slots=True)
class Events:
    """What can be listened to."""

    request: Hook = field(default_factory=Hook)
    test_start: Hook = field(default_factory=Hook)
    test_stop: Hook = field(default_factory=Hook)

    def requested(self, record: Record) -> None:
        """An observer of records."""
        self.request.fire(
            request_type="STREAM" if record.stream else "POST",
            name=record.task,
            response_time=1e3 * (record.end - record.intended),
            response_length=record.tokens,
            exception=record.error or None,
            record=record,
        )

    def taken(self) -> Events:
        """Who listens by now; from then on nobody does."""
        taken = Events(self.request, self.test_start, self.test_stop)
        self.request, self.test_start, self.test_stop = Hook(), Hook(), Hook()
        return taken


events = Events()  # a file of users adds to this one when it is imported
