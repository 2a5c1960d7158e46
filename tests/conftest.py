"""What every test needs before vLLM or Ray is imported."""

import os
import signal

import pytest

from tests import servers

# Of the variables a replica gets (serving/cluster/environment.py), those that the engine reads.
os.environ.update(
    VLLM_ENABLE_V1_MULTIPROCESSING="0",
    OMP_NUM_THREADS="1",
    VLLM_NO_USAGE_STATS="1",
    DO_NOT_TRACK="1",
    HF_HUB_OFFLINE="1",
)
# Shells start what they put in the background deaf to Ctrl-C, and so is all that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def postgres():
    """A PostgreSQL of this session's own."""
    try:
        with servers.postgres() as server:
            yield server
    except servers.Missing as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def redis():
    """A Redis of this session's own."""
    try:
        with servers.redis() as server:
            yield server
    except servers.Missing as missing:
        pytest.skip(str(missing))
