"""Shared by all tests: shape annotations are checked at run time, and torch uses one thread, so processes do not compete."""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "5000")
os.environ["OMP_NUM_THREADS"] = "1"  # otherwise runs measure which number is fastest

from jaxtyping import install_import_hook

install_import_hook("genrep", "beartype.beartype")

import pytest
import torch
from accelerate.state import AcceleratorState


@pytest.fixture(autouse=True)
def quiet_torch():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    AcceleratorState._reset_state(reset_partial_state=True)  # its state is global: each test starts afresh
