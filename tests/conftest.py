"""Shared by all tests: annotated shapes are checked at run time, and one thread, so that processes do not fight."""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "5000")
os.environ["OMP_NUM_THREADS"] = "1"  # runs take this number in place of the one that they find to be the fastest

from jaxtyping import install_import_hook

install_import_hook("genrep", "beartype.beartype")

import pytest
import torch
from accelerate.state import AcceleratorState


@pytest.fixture(autouse=True)
def quiet_torch():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    AcceleratorState._reset_state(reset_partial_state=True)  # each test is a process of its own to accelerate
