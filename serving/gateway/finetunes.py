"""LoRA adapters of accounts, `ai/finetunes`: making, listing and uploading them.

Files come one by one, as forms, and go to a temporary file as they come: never all in memory.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Annotated, BinaryIO, Protocol

import msgspec
from msgspec import Meta
from msgspec.structs import replace
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from serving.core import Adapter, Caller, Generation
from serving.errors import BodyTooLarge, InvalidInput, LoraUnsupported, UnknownPath
from serving.gateway import body
from serving.gateway.asgi import Message, Receive, Scope
from serving.gateway.watch import ClientLeft
from serving.protocol import envelope, payload

FILES = ("adapter_config.json", "adapter_model.safetensors")
_MAX_UPLOAD = 501_000_000  # the largest file, and the form around it
_MAX_BODY = 64 * 1024
_ORDERS = ("created_at", "modified_at", "name", "model", "id")


class Wanted(msgspec.Struct, frozen=True):
    """The body that makes an adapter."""

    model: str
    name: str
    # PostgreSQL has no texts with a NUL.
    description: Annotated[str, Meta(max_length=1000, pattern=r"^[^\x00]*$")] | None = None
    public: bool = False


@dataclass(frozen=True, slots=True)
class Shown:
    """An adapter, as its account sees it. Times are Unix milliseconds."""

    id: str
    name: str
    model: str
    description: str | None
    public: bool
    created_at: int
    modified_at: int


class Finetunes(Protocol):
    """The adapters of all accounts. All raise StoreDown when the store is away."""

    async def create(self, caller: Caller, wanted: Wanted) -> Shown:
        """A new adapter, without files.

        Raises:
            UnknownModel, LoraUnsupported: nothing to adapt.
            InvalidInput: the name cannot be used, or there are too many.
            NotPermitted: only operators make public ones.
        """
        ...

    async def theirs(self, caller: Caller) -> list[Shown]:
        """The account's own."""
        ...

    async def public(self, limit: int, offset: int, order: str) -> list[Shown]:
        """Those that every account may use."""
        ...

    async def upload(self, caller: Caller, asked: str, name: str, file: BinaryIO) -> None:
        """Judge and keep one of `FILES` for the account's adapter of this name or id.

        Raises:
            UnknownAdapter: the account has none such.
            InvalidInput: it is complete, or the file cannot be used.
            BodyTooLarge: the file is.
        """
        ...

    async def find(self, caller: Caller, asked: str, model: str) -> Adapter:
        """The adapter for a request.

        Raises:
            UnknownAdapter: none for this model that the account may use.
            AdapterIncomplete: not all of its files are there.
        """
        ...


@dataclass(frozen=True, slots=True)
class Errand:
    """A request about adapters. `asked`: the one that the address names."""

    store: Finetunes
    caller: Caller
    asked: str
    query: Mapping[str, str]
    scope: Scope
    receive: Receive


@dataclass(frozen=True, slots=True)
class Action:
    """What a route about adapters does: `run` gives the body of the answer."""

    run: Callable[[Errand], Awaitable[bytes]]


async def adapted(store: Finetunes | None, caller: Caller, generation: Generation) -> Generation:
    """The generation with the adapter that it asks for, if it does.

    Raises: see `Finetunes.find`; LoraUnsupported: there is no store of adapters.
    """
    if not generation.lora:
        return generation
    if store is None:
        raise LoraUnsupported(generation.model)
    found = await store.find(caller, generation.lora, generation.model)
    return replace(generation, adapter=found)


async def _create(errand: Errand) -> bytes:
    data = await body.read(errand.scope, errand.receive, _MAX_BODY)
    wanted = payload.shaped(data, Wanted)
    return envelope.success(_entry(await errand.store.create(errand.caller, wanted)))


async def _list(errand: Errand) -> bytes:
    return envelope.success([_entry(each) for each in await errand.store.theirs(errand.caller)])


async def _list_public(errand: Errand) -> bytes:
    limit, offset = _number(errand.query, "limit", 100), _number(errand.query, "offset", 0)
    order = errand.query.get("orderBy", _ORDERS[0])
    if order not in _ORDERS:
        raise InvalidInput(f"'/orderBy' must be one of {', '.join(_ORDERS)}")
    return envelope.success([_entry(e) for e in await errand.store.public(limit, offset, order)])


async def _upload(errand: Errand) -> bytes:
    if not errand.asked:
        raise UnknownPath
    request = Request(errand.scope, _limited(errand.receive))
    parser = MultiPartParser(
        request.headers, request.stream(), max_files=1, max_fields=4, max_part_size=1024
    )
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError) as error:
        raise InvalidInput("the body must be a form with file_name and file") from error
    try:
        name, file = form.get("file_name"), form.get("file")
        if not isinstance(file, UploadFile):
            raise InvalidInput("'/file' must be a file")
        if name not in FILES:
            raise InvalidInput(f"'/file_name' must be one of {', '.join(FILES)}")
        await errand.store.upload(errand.caller, errand.asked, str(name), file.file)
    finally:
        await form.close()
    return envelope.success({"success": True})


CREATE, LIST, LIST_PUBLIC, UPLOAD = map(Action, (_create, _list, _list_public, _upload))


def _limited(receive: Receive) -> Receive:
    """`receive`, for bodies of at most `_MAX_UPLOAD` bytes."""
    size = 0

    async def counted() -> Message:
        nonlocal size
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        size += len(message.get("body", b""))
        if size > _MAX_UPLOAD:
            raise BodyTooLarge(_MAX_UPLOAD)
        return message

    return counted


def _entry(found: Shown) -> dict[str, object]:
    fields: dict[str, object] = asdict(found)
    return fields | {name: _time(getattr(found, name)) for name in ("created_at", "modified_at")}


def _time(milliseconds: int) -> str:
    at = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _number(query: Mapping[str, str], name: str, default: int) -> int:
    text = query.get(name, str(default)).removesuffix(".0")  # the SDK's type is a float
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise InvalidInput(f"'/{name}' must be a whole number")
    return int(text)
