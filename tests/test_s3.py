"""Weights from an object store that checks the signature of each request, as S3 does."""

from __future__ import annotations

import hmac
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from serving import s3

KEY, SECRET, REGION = (
    "AKIAIOSFODNN7EXAMPLE",
    "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    "eu-west-1",
)
WEIGHTS = bytes(range(256)) * 4096


def signature(secret: str, path: str, headers: Mapping[str, str]) -> str:
    """Of a GET with these headers: AWS Signature Version 4, worked out from its description.

    https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
    """
    given = dict(
        each.strip().split("=", 1)
        for each in headers["authorization"].removeprefix("AWS4-HMAC-SHA256 ").split(",")
    )
    scope = given["Credential"].partition("/")[2]
    names = given["SignedHeaders"].split(";")
    lines = "".join(f"{name}:{headers[name].strip()}\n" for name in names)
    body = headers["x-amz-content-sha256"]
    request = f"GET\n{path}\n\n{lines}\n{given['SignedHeaders']}\n{body}"
    digest = sha256(request.encode()).hexdigest()
    text = f"AWS4-HMAC-SHA256\n{headers['x-amz-date']}\n{scope}\n{digest}"
    key = f"AWS4{secret}".encode()
    for part in (*scope.split("/"), text):
        key = hmac.digest(key, part.encode(), "sha256")
    return key.hex()


def test_the_check_agrees_with_the_example_of_aws() -> None:
    """ "Example: GET Object" of the page above."""
    empty = sha256(b"").hexdigest()
    headers = {
        "host": "examplebucket.s3.amazonaws.com",
        "range": "bytes=0-9",
        "x-amz-content-sha256": empty,
        "x-amz-date": "20130524T000000Z",
        "authorization": f"AWS4-HMAC-SHA256 Credential={KEY}/20130524/us-east-1/s3/aws4_request,"
        "SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,Signature=",
    }
    assert signature(SECRET, "/test.txt", headers) == (
        "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
    )


@dataclass
class Bucket:
    """What it holds, how many bytes it sends at once, and the ranges it was asked for."""

    files: dict[str, bytes] = field(default_factory=dict)
    cut_after: int = 1 << 30
    ranges: list[str | None] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    kept = Bucket()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            given = headers.get("authorization", "")
            if not given or signature(SECRET, self.path, headers) != given.rpartition("=")[2]:
                self.send_error(403)
                return
            data = kept.files[self.path]
            range_ = headers.get("range")
            kept.ranges.append(range_)
            start = int(range_.removeprefix("bytes=").rstrip("-")) if range_ else 0
            self.send_response(206 if start else 200)
            self.send_header("content-length", str(len(data) - start))
            self.end_headers()
            self.wfile.write(data[start : start + kept.cut_after])

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


def fetched(bucket: Bucket, folder: Path, secret: str) -> subprocess.CompletedProcess[str]:
    sums = f"{sha256(WEIGHTS).hexdigest()}  model.safetensors\n".encode()
    bucket.files = {
        "/models/llama/SHA256SUMS": sums,
        "/models/llama/model.safetensors": WEIGHTS,
    }
    given = {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_REGION": REGION,
        "AWS_ENDPOINT_URL_S3": bucket.url,
    }
    digest = f"--sums={sha256(sums).hexdigest()}"
    return subprocess.run(
        [sys.executable, "-m", "serving.weights", folder, "--url=s3://models/llama", digest],
        env={**os.environ, **given},
        capture_output=True,
        text=True,
        check=False,
    )


def test_signed_requests_fetch_the_weights_and_resume(bucket: Bucket, tmp_path: Path) -> None:
    bucket.cut_after = len(WEIGHTS) // 2 + 1
    done = fetched(bucket, tmp_path, SECRET)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "model.safetensors").read_bytes() == WEIGHTS
    assert bucket.ranges[:2] == [None, None]
    assert bucket.ranges[2] is not None


def test_a_wrong_secret_is_refused_and_told_without_it(bucket: Bucket, tmp_path: Path) -> None:
    done = fetched(bucket, tmp_path, "not-the-secret")
    assert done.returncode == 1
    assert "answers 403" in done.stderr
    assert "not-the-secret" not in done.stderr


@pytest.mark.parametrize(
    ("url", "endpoint", "place"),
    [
        ("s3://models", "", "https://models.s3.eu-west-1.amazonaws.com"),
        ("s3://models/a/b/", "", "https://models.s3.eu-west-1.amazonaws.com/a/b"),
        ("s3://my.models/a", "", "https://s3.eu-west-1.amazonaws.com/my.models/a"),
        ("s3://models/a", "https://minio.example/", "https://minio.example/models/a"),
    ],
)
def test_a_bucket_has_an_address(url: str, endpoint: str, place: str) -> None:
    assert s3.address(url, REGION, endpoint) == place
