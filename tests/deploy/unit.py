"""What systemd makes of deploy/llama-vision.service, for tests that have no systemd."""

from __future__ import annotations

import resource
import signal
import sys
from collections.abc import Mapping
from configparser import ConfigParser
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DEPLOY = Path(__file__).parents[2] / "deploy"
# What a service has of systemd itself (systemd.exec, "Environment variables in spawned processes").
_GIVEN = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "USER": "llama-vision",
    "LOGNAME": "llama-vision",
    "SHELL": "/usr/sbin/nologin",
}


@dataclass(frozen=True)
class Unit:
    """How the service is started and stopped."""

    command: tuple[str, ...]
    environment: dict[str, str]
    files: int
    """How many may be open."""
    umask: int
    kill_signal: signal.Signals
    """To the main process alone, as KillMode has it; what is left then is killed."""
    patience: float
    """Seconds until the main process is killed as well."""

    @classmethod
    def read(cls, state: Path, settings: Mapping[str, str]) -> Unit:
        """The unit, with its state in `state` and the programs of this environment.

        `settings` are filled into deploy/serving.env.example, which becomes its EnvironmentFile.
        """
        parser = ConfigParser(strict=False, interpolation=None, delimiters=("=",))
        places = {
            "/opt/llama-vision/bin": str(Path(sys.executable).parent),
            "/var/lib/llama-vision": str(state),
        }
        text = (DEPLOY / "llama-vision.service").read_text()
        for place, here in places.items():
            text = text.replace(place, here)
        parser.read_string(text)
        service = parser["Service"]
        assert service["KillMode"] == "mixed"
        return cls(
            command=tuple(service["ExecStart"].split()),
            environment={
                **_GIVEN,
                **dict(each.split("=", 1) for each in service["Environment"].split()),
                **_filled((DEPLOY / "serving.env.example").read_text(), settings),
            },
            files=int(service["LimitNOFILE"]),
            umask=int(service["UMask"], 8),
            kill_signal=signal.Signals[service["KillSignal"]],
            patience=float(service["TimeoutStopSec"]),
        )

    def options(self) -> dict[str, Any]:
        """For `subprocess.Popen`."""
        return {"cwd": "/", "umask": self.umask, "preexec_fn": self._limit}

    def _limit(self) -> None:
        """As far as this process may: raising it is systemd's right."""
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        files = self.files if most == resource.RLIM_INFINITY else min(self.files, most)
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))


def _filled(example: str, settings: Mapping[str, str]) -> dict[str, str]:
    lines = [line for line in example.splitlines() if line and not line.startswith("#")]
    asked = {line.partition("=")[0] for line in lines}
    assert asked <= settings.keys(), "the example asks for what the test does not know"
    return dict(settings)
