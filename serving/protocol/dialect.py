"""What a wire format is to the gateway, which serves all of them by the same code.

A body becomes a `core.Generation` and a `Writer`; the engine's deltas become bytes in the writer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from serving.catalog import Catalog, Model
from serving.core import Delta, Generation
from serving.errors import InvalidInput, ServingError

KEEP_ALIVE = b": keep-alive\n\n"  # a comment of the event stream format; clients skip it

Failure = Callable[[ServingError, str], bytes]


@dataclass(frozen=True, slots=True)
class Ask:
    """What is known of a request besides its body.

    `model` is the one its address names, if it does; `created` counts seconds since 1970, UTC.
    With `padded` the native stream hides the length of its tokens from who watches the wire.
    `inputs` are the fields, as JSON, of a request whose body is a picture.
    """

    id: str
    models: Catalog
    model: str = ""
    created: int = 0
    padded: bool = False
    inputs: bytes = field(default=b"", repr=False)

    def find(self, named: str = "") -> Model:
        """The model of the address, or else the one that the body names.

        Raises:
            InvalidInput: neither names one.
            UnknownModel: the catalogue does not hold it.
        """
        if not (self.model or named):
            raise InvalidInput("required properties at '/' are 'model'")
        # AI Gateway's unified address takes models of many vendors, by their prefix.
        return self.models.find(self.model or named.removeprefix("workers-ai/"))


class Writer(Protocol):
    """Writes the answer to one generation, whole or as a stream, never both."""

    def whole(self, delta: Delta) -> bytes:
        """The body of the answer whose one delta this is.

        Raises:
            JsonNotMet: JSON was asked for, the text is none, and the dialect refuses that.
        """
        ...

    def frames(self, delta: Delta) -> bytes:
        """The events `delta` completes, possibly none; called with each delta, in order."""
        ...

    def broken(self, error: ServingError) -> bytes:
        """The last events of a stream that fails on its way."""
        ...


@dataclass(frozen=True, slots=True)
class Dialect:
    """One wire format.

    `parse` raises `BadRequest`s; `failure` is the body of an error's answer, given the request id.
    With `counted` nothing is generated: it writes the answer that is the prompt's tokens.
    """

    parse: Callable[[bytes, Ask], tuple[Generation, Writer]]
    failure: Failure
    counted: Callable[[int], bytes] | None = None
