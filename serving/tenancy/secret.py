"""The server's secret, and what is derived from it. Losing it makes all tokens worthless."""

from __future__ import annotations

import hmac
import os
import secrets
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

SCOPES = ("ai", "admin")
"""`ai` runs models; `admin` opens the admin API."""
ROLES = ("member", "admin")
"""How far `admin` reaches: a member's own account, or all of them."""

_PREFIX = {"member": "cfut_", "admin": "cfat_"}
_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_LENGTH = 40  # 238 bits


def mint(role: str) -> str:
    """A new API token. Who loses it makes another: it is kept nowhere."""
    return _PREFIX[role] + "".join(secrets.choice(_ALPHABET) for _ in range(_LENGTH))


class Secret:
    """Keys derived from one secret, a key per purpose."""

    def __init__(self, value: bytes) -> None:
        """`value` is of at least 16 bytes.

        Raises:
            ValueError: it is shorter.
        """
        if len(value) < 16:
            raise ValueError("TENANCY_SECRET must have at least 16 characters")
        self._tokens = hmac.digest(value, b"api tokens", sha256)
        self._salts = hmac.digest(value, b"cache salts", sha256)

    @classmethod
    def kept(cls, file: Path) -> Secret:
        """The secret in a file that only its owner reads, made if there is none."""
        if not file.exists():
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write_once(file, secrets.token_hex(32))
        return cls(file.read_bytes().strip())

    def digest(self, token: bytes) -> bytes:
        """What is stored of an API token, and found by.

        A database index may compare it as fast as it likes: without the key nobody can choose
        tokens whose digests begin like that of another.
        """
        return hmac.digest(self._tokens, token, sha256)

    def salt(self, account: str, pool: str | None) -> str:
        """The cache salt of an account, or of the public pool it has joined."""
        name = f"pool {pool}" if pool else f"account {account}"
        return hmac.digest(self._salts, name.encode(), sha256).hex()[:32]


def _write_once(file: Path, value: str) -> None:
    """Of several processes that do this at once, all end up with the same file."""
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    draft.touch(mode=0o600)
    draft.write_text(value + "\n")
    with suppress(FileExistsError):
        file.hardlink_to(draft)
    draft.unlink()
