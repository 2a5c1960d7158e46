"""Fetches a checkpoint into a folder: what the chart's init container runs before Ray starts.

    python -m serving.weights FOLDER --hugging-face OWNER/NAME@COMMIT
    python -m serving.weights FOLDER --url https://... --sums SHA256_OF_SHA256SUMS
    python -m serving.weights FOLDER --url s3://BUCKET/FOLDER --sums SHA256_OF_SHA256SUMS

A download resumes where it was cut. A file bears its name only once its digest is right, and
`.complete` names the digests of all, so that a folder that is complete costs one read. Several
pods may share the folder: one fetches, the others wait for it.

From the environment: HF_TOKEN, HF_ENDPOINT; AUTHORIZATION (a whole header, for --url); for s3://
AWS_REGION, AWS_ENDPOINT_URL_S3 and what else AWS's clients take their credentials from.
"""

from __future__ import annotations

import fcntl
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha1, sha256
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer

from serving import s3

_HUB = "https://huggingface.co"
_SUMS = "SHA256SUMS"
_NAME = re.compile(r"[A-Za-z0-9_][\w.-]*")  # one level, nothing hidden
_CHUNK = 1 << 20
_TRIES = 5  # in a row without a new byte


class Damaged(Exception):  # noqa: N818 - a domain word
    """What was fetched is not what was promised."""


@dataclass(frozen=True, slots=True)
class File:
    """A file to fetch. `digest` is SHA-256, or with `git` the SHA-1 of git's blob (hex)."""

    name: str
    url: str
    digest: str
    git: bool = False


def hub(client: httpx.Client, model: str) -> list[File]:
    """The files at the top of a model's repository on Hugging Face; `model` is `owner/name@commit`.

    Folders are left out: the published model has a second copy of its weights in one.
    https://huggingface.co/docs/hub/api, `tree`: large files come with their SHA-256.

    Raises:
        httpx.HTTPError: it cannot be listed.
    """
    repository, _, commit = model.partition("@")
    endpoint = os.environ.get("HF_ENDPOINT", _HUB)
    entries: list[dict[str, Any]] = []
    page: str | None = f"{endpoint}/api/models/{repository}/tree/{commit}"
    while page:
        response = client.get(page).raise_for_status()
        entries += response.json()
        page = response.links.get("next", {}).get("url")
    base = f"{endpoint}/{repository}/resolve/{commit}"
    return [_entry(each, base) for each in entries if _wanted(each)]


def _wanted(entry: dict[str, Any]) -> bool:
    return entry["type"] == "file" and _NAME.fullmatch(entry["path"]) is not None


def _entry(entry: dict[str, Any], base: str) -> File:
    large = entry.get("lfs")
    digest = large["oid"] if large else entry["oid"]
    return File(entry["path"], f"{base}/{entry['path']}", digest, git=not large)


def listed(client: httpx.Client, url: str, sums: str) -> list[File]:
    """The files that `url`'s SHA256SUMS lists (as `sha256sum` writes it), itself of digest `sums`.

    Raises:
        httpx.HTTPError: it cannot be fetched.
        Damaged: it is another one, or names files elsewhere.
    """
    data = client.get(f"{url}/{_SUMS}").raise_for_status().content
    if sha256(data).hexdigest() != sums:
        raise Damaged(f"{_SUMS} is not the one whose digest was given")
    lines = [line.split(maxsplit=1) for line in data.decode().splitlines() if line]
    return [_line(line, url) for line in lines]


def _line(line: list[str], url: str) -> File:
    name = line[-1].removeprefix("*")
    if len(line) != 2 or not _NAME.fullmatch(name):
        raise Damaged(f"{_SUMS} has a line that names no file of its folder: {name}")
    return File(name, f"{url}/{name}", line[0])


def fetch(client: httpx.Client, files: list[File], folder: Path, pause: float = 2.0) -> int:
    """Bring `folder` to hold the files; how many had to be fetched.

    Attempts that bring nothing are repeated after `pause` seconds, and twice that, and so on.

    Raises:
        httpx.HTTPError: the server refused, or five attempts in a row brought nothing.
        Damaged: a file is not what its digest says; it is removed.
        OSError: the disk is full, for instance.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder / ".lock"):
        marker, content = folder / ".complete", _content(files)
        if marker.exists() and marker.read_text() == content:
            return 0
        missing = [file for file in files if not _holds(folder / file.name, file)]
        for file in missing:
            _fetch_one(client, file, folder, pause)
        marker.write_text(content)
        return len(missing)


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def _content(files: Iterable[File]) -> str:
    return "".join(f"{file.digest}  {file.name}\n" for file in files)


def _fetch_one(client: httpx.Client, file: File, folder: Path, pause: float) -> None:
    part = folder / f".{file.name}.part"
    failures = 0
    while True:
        before = _size(part)
        try:
            _append(client, file.url, part)
            break
        except (httpx.TransportError, httpx.HTTPStatusError) as error:
            failures = 0 if _size(part) > before else failures + 1
            if failures == _TRIES or _is_final(error):
                raise
        time.sleep(pause * 2**failures)
    if not _holds(part, file):
        part.unlink()
        raise Damaged(f"{file.name} does not have the digest {file.digest}")
    part.rename(folder / file.name)


def _append(client: httpx.Client, url: str, part: Path) -> None:
    """Fetch what `part` does not hold yet, or all of it where the server knows no ranges."""
    size = _size(part)
    headers = {"accept-encoding": "identity"} | ({"range": f"bytes={size}-"} if size else {})
    with client.stream("GET", url, headers=headers) as response:
        if response.status_code == 416:  # there is nothing after it: the digest will tell
            return
        response.raise_for_status()
        with part.open("ab" if response.status_code == 206 else "wb") as file:
            # As they come: gathered into larger pieces, the last one would be lost with a cut.
            for chunk in response.iter_bytes():
                file.write(chunk)


def _is_final(error: httpx.HTTPError) -> bool:
    """Asking again would bring the same answer: no such file, no such token."""
    if not isinstance(error, httpx.HTTPStatusError):
        return False
    return error.response.status_code < 500 and error.response.status_code != 429


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _holds(path: Path, file: File) -> bool:
    if not path.exists():
        return False
    digest = sha1(b"blob %d\0" % _size(path)) if file.git else sha256()
    with path.open("rb") as opened:
        while chunk := opened.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest() == file.digest


def _client(signed: s3.Signed | None) -> httpx.Client:
    """With the credentials of the environment. httpx does not pass them on to other hosts."""
    if signed:
        return httpx.Client(auth=signed, timeout=60, follow_redirects=True)
    header = os.environ.get("AUTHORIZATION")
    if token := os.environ.get("HF_TOKEN"):
        header = f"Bearer {token}"
    headers = {"authorization": header} if header else {}
    return httpx.Client(headers=headers, timeout=60, follow_redirects=True)


def _run(
    folder: Path,
    hugging_face: Annotated[str, typer.Option(help="owner/name@commit")] = "",
    url: Annotated[str, typer.Option(help="a folder with a SHA256SUMS, https:// or s3://")] = "",
    sums: Annotated[str, typer.Option(help="SHA-256 of that SHA256SUMS")] = "",
) -> None:
    """Fetch a checkpoint into FOLDER."""
    if bool(hugging_face) == bool(url):
        raise typer.BadParameter("give one of --hugging-face and --url")
    signed = None
    if url.startswith(s3.SCHEME):
        region = os.environ.get("AWS_REGION", "us-east-1")
        url = s3.address(url, region, os.environ.get("AWS_ENDPOINT_URL_S3", ""))
        signed = s3.Signed.found(region)
    try:
        with _client(signed) as client:
            files = hub(client, hugging_face) if hugging_face else listed(client, url, sums)
            count = fetch(client, files, folder)
    except (Damaged, OSError, httpx.HTTPError) as error:
        sys.stderr.write(f"weights: {_reason(error)}\n")
        raise typer.Exit(1) from None
    sys.stdout.write(f"weights: {len(files)} files in {folder}, {count} of them fetched now\n")


def _reason(error: Exception) -> str:
    """Without the query of a URL, which may hold a signature."""
    if isinstance(error, httpx.HTTPStatusError):
        url = error.request.url.copy_with(query=None)
        return f"{url} answers {error.response.status_code}"
    return f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    typer.run(_run)
