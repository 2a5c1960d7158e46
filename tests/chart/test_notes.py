"""What `helm install` says is pasted into a shell; a running gateway stands for the cluster."""

from __future__ import annotations

import asyncio
import base64
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart import helm
from tests.chart.helm import CHART, Chart, containers, pods
from tests.chart.options import OPTIONS
from tests.gateway.conftest import ACCOUNT, TOKEN, Service

# Makes Secrets with the real kubectl, to nowhere, and reads from one that is there.
KUBECTL = """#!/bin/sh
case "$*" in
  *"create secret"*) {real} "$@" --dry-run=client -o yaml; echo --- ;;
  *"get secret"*ACCOUNT_ID*) printf %s {account} ;;
  *"get secret"*API_TOKEN*) printf %s {token} ;;
  *"get rayservice"*|*port-forward*) ;;
  *) exit 1 ;;
esac
"""
SECRETS: dict[str, dict[str, Any]] = {
    "one account": {},
    "tenancy": OPTIONS["tenancy"],
    "everything": {
        **OPTIONS["tenancy"],
        **OPTIONS["service monitor"],
        "gcsFaultTolerance": {
            "enabled": True,
            "redisAddress": "rediss://redis:6379",
            "passwordSecret": {"name": "llama-vision", "key": "REDIS_PASSWORD"},
        },
    },
}


def notes(chart: Chart, values: dict[str, Any], profile: str = "cpu-demo") -> str:
    files = ["-f", str(CHART / f"values-{profile}.yaml"), "-f", "-"]
    arguments = ["install", "demo", str(chart.archive), "-n", "serving", "--dry-run=client", *files]
    done = chart.run(*arguments, text=yaml.safe_dump(values))
    assert done.returncode == 0, done.stderr
    return done.stdout.partition("NOTES:\n")[2]


def commands(text: str) -> str:
    """What is set apart from the text by two spaces."""
    return "\n".join(re.findall(r"^  .*$", text, re.MULTILINE))


async def paste(text: str, folder: Path) -> str:
    """The output of a shell that stops at the first command that fails."""
    try:
        real = str(helm.kubectl())
    except helm.Unavailable as reason:
        pytest.skip(str(reason))
    account, token = (base64.b64encode(each.encode()).decode() for each in (ACCOUNT, TOKEN))
    shims = {
        "kubectl": KUBECTL.format(real=real, account=account, token=token),
        "helm": '#!/bin/sh\n[ "$*" = "test -n serving demo" ]\n',
    }
    for name, program in shims.items():
        (folder / name).write_text(program)
        (folder / name).chmod(0o755)
    stores = dict.fromkeys(("DATABASE_URL", "REDIS_URL", "REDIS_PASSWORD"), "x")
    process = await asyncio.create_subprocess_exec(
        *("bash", "-euo", "pipefail", "-c", text),
        env={
            "PATH": f"{folder}:{os.environ['PATH']}",
            "KUBECONFIG": str(folder / "none"),
            **stores,
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


@pytest.mark.parametrize("values", SECRETS.values(), ids=SECRETS)
async def test_the_commands_work_when_they_are_pasted(
    chart: Chart, service: Service, values: dict[str, Any], tmp_path: Path
) -> None:
    text = commands(notes(chart, values)).replace("127.0.0.1:8000", f"127.0.0.1:{service.port}")
    said = await paste(text, tmp_path)
    assert '"success":true' in said.rpartition("---\n")[2]
    made = [each for each in yaml.safe_load_all(said.rpartition("---\n")[0]) if each]
    keys = {each["metadata"]["name"]: set(each["data"]) for each in made}
    assert keys["llama-vision-ray"] == {"auth_token"}
    wanted = {
        reference["key"]
        for pod in pods(chart.render(values, "cpu-demo")).values()
        for container in containers(pod)
        for variable in container["env"]
        if (reference := variable.get("valueFrom", {}).get("secretKeyRef"))
    }
    if "gcsFaultTolerance" in values:
        wanted |= {"REDIS_PASSWORD"}  # KubeRay's
    assert keys["llama-vision"] == wanted


def test_what_is_still_open_is_said(chart: Chart) -> None:
    told = notes(chart, {})
    assert "set httpRoute or ingress" in told
    assert "should set image.digest" in told
    assert "takes plain HTTP" in notes(chart, OPTIONS["load balancer"])
    routed = notes(chart, OPTIONS["route"] | OPTIONS["digest"])
    assert "set httpRoute" not in routed
    assert "image.digest" not in routed
    assert "create secret" not in notes(chart, OPTIONS["external secrets"])
