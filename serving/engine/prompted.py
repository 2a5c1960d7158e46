"""How one prompt's tokens are counted: of text and pictures, and what was found of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from serving.core import Usage


@dataclass(frozen=True, slots=True)
class Prompted:
    """A prompt as the engine got it: tokens of `text`, and `pictures` as (place, tokens).

    A picture's place is that of its `<|image|>` in the text.
    """

    text: int
    pictures: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, tokens: Sequence[int], image: int, sizes: Sequence[int]) -> Prompted:
        """`image`: the id of `<|image|>`; `sizes`: each picture's tokens, in order."""
        if not sizes:
            return cls(len(tokens))
        places = [place for place, token in enumerate(tokens) if token == image]
        return cls(len(tokens), tuple(zip(places, sizes, strict=True)))

    @property
    def tokens(self) -> int:
        """Of the whole prompt."""
        return self.text + sum(size for _, size in self.pictures)

    def usage(self, completion: int = 0, found: int = 0) -> Usage:
        """After so many tokens of the answer, with `found` tokens of the text in the cache.

        A prefix is only found together with the pictures in it.
        """
        if not self.pictures:
            return Usage(self.text, completion, found)
        images = sum(size for _, size in self.pictures)
        seen = sum(size for place, size in self.pictures if place < found)
        return Usage(self.text + images, completion, found + seen, images, seen)
