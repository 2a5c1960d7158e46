"""Which accounts get series of their own: a bounded number, of those that use most."""

from __future__ import annotations

from collections.abc import Iterable

OTHER = "other"
_MEMORY = 1e6  # tokens after which what was seen counts half


class Names:
    """Gives `room` names, for good: a series that changed hands would lie.

    An account is named once half an even share of the tokens lately is its own, so that the many
    small ones of a large deployment leave the room to those that matter.
    """

    def __init__(self, room: int, named: Iterable[str] = ()) -> None:
        """`named` have a name from before."""
        self._room = room
        self._named = set(named) - {OTHER}
        self._seen: dict[str, float] = {}
        self._total = 0.0

    def of(self, account: str, tokens: int) -> str:
        """The label of an account that has just used this many."""
        if account in self._named:
            self._total += tokens
            return account
        if len(self._named) >= self._room:
            return OTHER
        self._total += tokens
        self._seen[account] = self._seen.get(account, 0.0) + tokens
        if tokens and self._seen[account] * 2 * self._room >= self._total:
            del self._seen[account]
            self._named.add(account)
            return account
        if self._total > _MEMORY:
            self._forget()
        return OTHER

    def _forget(self) -> None:
        """Halve what was seen; who is seen no more goes."""
        self._total /= 2
        self._seen = {name: tokens / 2 for name, tokens in self._seen.items() if tokens >= 2}
