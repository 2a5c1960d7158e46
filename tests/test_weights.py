"""The program that fetches a checkpoint, against a server that cuts, refuses and lies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha1, sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from serving.weights import Damaged, fetch, listed

COMMIT = "0" * 40
WEIGHTS = bytes(range(256)) * 4096
CONFIG = b'{"model_type": "mllama"}'


@dataclass
class Store:
    """What the server has, how it misbehaves, and what it was asked."""

    files: dict[str, bytes] = field(default_factory=dict)
    cut_after: int | None = None  # bytes of one answer
    refuse: int = 0  # a status for all
    ranges: bool = True
    asked: list[tuple[str, str | None, str | None]] = field(default_factory=list)
    url: str = ""

    def named(self) -> list[str]:
        return [path.rsplit("/", 1)[-1] for path, _, _ in self.asked]


@pytest.fixture
def store() -> Iterator[Store]:
    kept = Store()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            range_ = self.headers.get("range")
            kept.asked.append((self.path, range_, self.headers.get("authorization")))
            data = kept.files.get(self.path)
            if kept.refuse or data is None:
                self.send_error(kept.refuse or 404)
                return
            start = int(range_.removeprefix("bytes=").rstrip("-")) if range_ and kept.ranges else 0
            self.send_response(206 if start else 200)
            self.send_header("content-length", str(len(data) - start))
            self.end_headers()
            end = start + kept.cut_after if kept.cut_after else len(data)
            self.wfile.write(data[start:end])

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    kept.url = f"http://127.0.0.1:{server.server_port}"
    yield kept
    server.shutdown()
    server.server_close()
    thread.join()


def publish(store: Store, files: dict[str, bytes]) -> str:
    """Put files and their SHA256SUMS under /m; the digest of the SHA256SUMS."""
    lines = "".join(f"{sha256(data).hexdigest()}  {name}\n" for name, data in files.items())
    store.files = {f"/m/{name}": data for name, data in files.items()}
    store.files["/m/SHA256SUMS"] = lines.encode()
    return sha256(lines.encode()).hexdigest()


def into(folder: Path, store: Store, sums: str) -> int:
    with httpx.Client() as client:
        return fetch(client, listed(client, f"{store.url}/m", sums), folder, pause=0)


def test_a_download_that_is_cut_again_and_again_resumes_where_it_was(
    store: Store, tmp_path: Path
) -> None:
    sums = publish(store, {"model.safetensors": WEIGHTS})
    store.cut_after = len(WEIGHTS) // 4 + 1
    # The SHA256SUMS is shorter than that, so only the weights are cut.
    assert into(tmp_path, store, sums) == 1
    assert (tmp_path / "model.safetensors").read_bytes() == WEIGHTS
    starts = [range_ for path, range_, _ in store.asked if path.endswith("safetensors")]
    assert starts[0] is None
    assert len(starts) == 4
    assert all(range_ for range_ in starts[1:])


def test_a_server_without_ranges_sends_all_of_it_again(store: Store, tmp_path: Path) -> None:
    sums = publish(store, {"model.safetensors": WEIGHTS})
    store.ranges = False
    (tmp_path / ".model.safetensors.part").write_bytes(b"begun")
    assert into(tmp_path, store, sums) == 1
    assert (tmp_path / "model.safetensors").read_bytes() == WEIGHTS


def test_a_damaged_file_never_bears_its_name(store: Store, tmp_path: Path) -> None:
    sums = publish(store, {"model.safetensors": WEIGHTS})
    store.files["/m/model.safetensors"] = WEIGHTS[:-1] + b"!"
    with pytest.raises(Damaged, match=r"model\.safetensors"):
        into(tmp_path, store, sums)
    assert not [path for path in tmp_path.iterdir() if path.name != ".lock"]


def test_a_list_that_is_not_the_promised_one_is_refused(store: Store, tmp_path: Path) -> None:
    publish(store, {"config.json": CONFIG})
    with pytest.raises(Damaged, match="digest was given"):
        into(tmp_path, store, "0" * 64)


@pytest.mark.parametrize("name", ["../outside", "a/b", ".hidden", "/etc/passwd"])
def test_a_list_cannot_name_files_elsewhere(store: Store, tmp_path: Path, name: str) -> None:
    sums = publish(store, {name: CONFIG})
    with pytest.raises(Damaged, match="names no file"):
        into(tmp_path, store, sums)


def test_a_complete_folder_is_not_fetched_again_and_a_changed_one_only_in_part(
    store: Store, tmp_path: Path
) -> None:
    sums = publish(store, {"config.json": CONFIG, "model.safetensors": WEIGHTS})
    assert into(tmp_path, store, sums) == 2
    assert into(tmp_path, store, sums) == 0
    sums = publish(store, {"config.json": CONFIG + b"\n", "model.safetensors": WEIGHTS})
    store.asked.clear()
    assert into(tmp_path, store, sums) == 1
    assert store.named() == ["SHA256SUMS", "config.json"]


def test_pods_that_share_a_folder_fetch_once(store: Store, tmp_path: Path) -> None:
    sums = publish(store, {"model.safetensors": WEIGHTS})
    counts: list[int] = []
    pods = [
        threading.Thread(target=lambda: counts.append(into(tmp_path, store, sums)))
        for _ in range(4)
    ]
    for pod in pods:
        pod.start()
    for pod in pods:
        pod.join()
    assert sorted(counts) == [0, 0, 0, 1]
    assert store.named().count("model.safetensors") == 1


def test_a_refusal_ends_it_at_once_and_an_overload_after_five_attempts(
    store: Store, tmp_path: Path
) -> None:
    sums = publish(store, {"model.safetensors": WEIGHTS})
    with httpx.Client() as client:
        files = listed(client, f"{store.url}/m", sums)
        for status, attempts in ((403, 1), (503, 5)):
            store.refuse = status
            store.asked.clear()
            with pytest.raises(httpx.HTTPStatusError):
                fetch(client, files, tmp_path, pause=0)
            assert len(store.asked) == attempts


def on_the_hub(store: Store) -> None:
    git = sha1(b"blob %d\0" % len(CONFIG) + CONFIG).hexdigest()
    large = {"oid": sha256(WEIGHTS).hexdigest(), "size": len(WEIGHTS)}
    tree = [
        {"type": "directory", "path": "original", "oid": "0" * 40},
        {"type": "file", "path": ".gitattributes", "oid": "0" * 40},
        {"type": "file", "path": "config.json", "oid": git},
        {"type": "file", "path": "model.safetensors", "oid": "0" * 40, "lfs": large},
    ]
    store.files = {
        f"/api/models/o/m/tree/{COMMIT}": json.dumps(tree).encode(),
        f"/o/m/resolve/{COMMIT}/config.json": CONFIG,
        f"/o/m/resolve/{COMMIT}/model.safetensors": WEIGHTS,
    }


def command(store: Store, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "serving.weights", folder, f"--hugging-face=o/m@{COMMIT}"],
        env={**os.environ, "HF_ENDPOINT": store.url, "HF_TOKEN": "hf_secret"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_fetches_from_the_hub_with_the_token(store: Store, tmp_path: Path) -> None:
    on_the_hub(store)
    done = command(store, tmp_path / "models" / "m")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "models" / "m" / "model.safetensors").read_bytes() == WEIGHTS
    assert (tmp_path / "models" / "m" / "config.json").read_bytes() == CONFIG
    assert {header for _, _, header in store.asked} == {"Bearer hf_secret"}


def test_the_command_says_in_one_line_what_is_wrong_and_not_the_token(
    store: Store, tmp_path: Path
) -> None:
    on_the_hub(store)
    store.refuse = 401
    done = command(store, tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("weights: http://")
    assert "answers 401" in done.stderr
    assert done.stderr.count("\n") == 1
    assert "hf_secret" not in done.stderr + done.stdout
