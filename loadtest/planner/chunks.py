"""In which steps prompts were read that a step had no room for as a whole.

Records say when a prompt's first token came, thus which step read its end. It can have been read
from the step on that followed the one under way when it came; each step gives it the room that
rows and prompts that were done before it have left.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Places = NDArray[np.intp]


def taken(begin: Places, end: Places, tokens: Array, room: Array) -> list[Array]:
    """Of each prompt how many tokens each of the steps from `begin` to `end` read.

    `room`: tokens that each step had beside its rows. A prompt ends where it did, whatever that
    step had room for.
    """
    left = room.copy()
    found: list[Array] = [np.zeros(0)] * len(tokens)
    for i in np.argsort(end, kind="stable"):
        # At least its last token was read by the last step.
        before = np.minimum(np.cumsum(np.maximum(left[begin[i] : end[i]], 0.0)), tokens[i] - 1)
        found[i] = np.diff(np.concatenate([[0.0], np.maximum(before, 0.0), [tokens[i]]]))
        left[begin[i] : end[i] + 1] -= found[i]
    return found


def work(taken: Array, prompt: float, tiles: float) -> Array:
    """Of each of these steps: whether the prompt ended, its tokens, pairs of tokens, tiles."""
    before = prompt - np.cumsum(taken[::-1])[::-1]
    rows = np.stack(
        [np.zeros_like(taken), taken, taken * (before + taken / 2), np.zeros_like(taken)]
    )
    rows[0, -1] = 1.0
    rows[3, int(np.argmax(taken > 0))] = tiles
    return rows.T
