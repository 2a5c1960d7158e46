"""The licence gate: an account says `agree` once before it uses the model. Off by default.

Workers AI answers that prompt with an error too, one that says thank you; clients know it.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from serving.catalog import Model
from serving.core import Caller, Generation, RawPrompt
from serving.errors import Agreed, NotAgreed

_WORD = "agree"


class Register(Protocol):
    """Keeps which account agreed to which model's terms, for all replicas. Calls block."""

    def has(self, account: str, model: str) -> bool:
        """Raises: StoreDown."""
        ...

    def add(self, account: str, model: str, token: str) -> None:
        """The token's holder agrees; again changes nothing. Raises: StoreDown."""
        ...


class Agreements:
    """Asks the register once for each account; nobody can withdraw."""

    def __init__(self, register: Register, gated: frozenset[str] | None = None) -> None:
        """`gated` are the accounts it is for, unless all."""
        self._register = register
        self._gated = gated
        self._known: set[tuple[str, str]] = set()

    async def check(self, caller: Caller, model: Model, generation: Generation) -> None:
        """Return when the caller's account has agreed to the terms of `model`.

        Raises:
            Agreed: it does so with this request.
            NotAgreed: it does not.
            StoreDown: nobody can tell now.
        """
        pair = (caller.account, model.id)
        if pair in self._known or (self._gated is not None and caller.account not in self._gated):
            return
        if await asyncio.to_thread(self._register.has, *pair):
            self._known.add(pair)
            return
        if not _agrees(generation):
            raise NotAgreed(model.terms)
        await asyncio.to_thread(self._register.add, *pair, caller.token)
        raise Agreed


def _agrees(generation: Generation) -> bool:
    """Whether the whole prompt is the one word."""
    prompt = generation.prompt
    if isinstance(prompt, RawPrompt):
        return prompt.text.strip().lower() == _WORD
    match [turn.content for turn in prompt if turn.role == "user"]:
        case [(str(text),)]:
            return text.strip().lower() == _WORD
    return False
