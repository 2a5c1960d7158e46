"""The licence gate: an account says `agree` once before it uses the model. Off by default.

Workers AI answers that prompt with an error too, one that says thank you; clients know it.
"""

from __future__ import annotations

from pathlib import Path

from serving.catalog import Model
from serving.core import Generation, RawPrompt
from serving.errors import Agreed, NotAgreed

_WORD = "agree"


class Agreements:
    """Who has agreed to which model's terms: an empty file for each pair, in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: set[Path] = set()

    def check(self, account: str, model: Model, generation: Generation) -> None:
        """Return when `account` has agreed to the terms of `model`.

        Raises:
            Agreed: it does so with this request.
            NotAgreed: it does not.
            OSError: the folder cannot be read or written.
        """
        file = self._folder / account / model.id.replace("/", "_")
        if file in self._known:
            return
        if file.exists():
            self._known.add(file)
            return
        if not _agrees(generation):
            raise NotAgreed(model.terms)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
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
