"""`serving up` with the fake engine, which says how many replicas there are whenever that changes:
`python -m tests.scaling.fake_up`."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from serving.cluster import environment
from serving.settings import Settings


def main() -> None:
    settings = Settings().resolved()
    with tempfile.TemporaryDirectory(prefix="lvs-", dir="/tmp") as folder:
        environment.prepare(Path(folder), 2, 2)
        _serve(settings, Path(folder))


def _serve(settings: Settings, folder: Path) -> None:
    from ray import serve

    from serving.cluster import local
    from serving.cluster.replica import APPLICATION, application
    from tests.scaling.fake_replica import FakeReplica

    before = 0
    with local.cluster(settings, folder):
        serve.run(application(settings, FakeReplica), name=APPLICATION, route_prefix="/")
        _say("ready after")
        while True:
            (deployment,) = serve.status().applications[APPLICATION].deployments.values()
            count = deployment.replica_states.get("RUNNING", 0)
            if count != before:
                _say(f"replicas {count}")
                before = count
            time.sleep(0.5)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
