"""What every test needs before vLLM or Ray is imported."""

import os

# Of the variables a replica gets (serving/cluster/environment.py), those that the engine reads.
os.environ.update(
    VLLM_ENABLE_V1_MULTIPROCESSING="0",
    OMP_NUM_THREADS="1",
    VLLM_NO_USAGE_STATS="1",
    DO_NOT_TRACK="1",
    HF_HUB_OFFLINE="1",
)
