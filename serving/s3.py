"""Objects of S3, and of stores that speak its protocol, as HTTPS addresses and signed requests."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import httpx
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.session import Session

SCHEME = "s3://"


def address(url: str, region: str, endpoint: str = "") -> str:
    """Where `s3://bucket/folder` is: at AWS, or below the address of another store."""
    bucket, _, folder = url.removeprefix(SCHEME).rstrip("/").partition("/")
    base = f"{endpoint.rstrip('/')}/{bucket}" if endpoint else _aws(bucket, region)
    return f"{base}/{folder}" if folder else base


def _aws(bucket: str, region: str) -> str:
    """A name with dots does not fit the certificate of `*.s3.REGION.amazonaws.com`."""
    if "." in bucket:
        return f"https://s3.{region}.amazonaws.com/{bucket}"
    return f"https://{bucket}.s3.{region}.amazonaws.com"


@dataclass(frozen=True, slots=True)
class Signed(httpx.Auth):
    """Signs each request (Signature Version 4), each try anew since a signature holds minutes.

    `credentials` are botocore's; those that expire renew themselves. httpx neither signs nor sends
    the signature where it is redirected to another host.
    """

    credentials: Any
    region: str

    @classmethod
    def found(cls, region: str) -> Signed | None:
        """With the credentials that botocore finds: variables, a role of the pod or of the node."""
        credentials = Session().get_credentials()
        return cls(credentials, region) if credentials else None

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response]:
        headers = {"range": request.headers["range"]} if "range" in request.headers else {}
        signed = AWSRequest(request.method, str(request.url), headers)
        keys = self.credentials.get_frozen_credentials()
        S3SigV4Auth(keys, "s3", self.region).add_auth(signed)
        request.headers.update(dict(signed.headers))
        yield request
