"""One function chooses the device, for every script."""

import pytest
import torch

from genrep.devices import choose_device, peak_memory
from genrep.errors import InputError


def there(monkeypatch, cuda=0, mps=False):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(
    ("cuda", "mps", "environment", "device"),
    [
        (0, False, {}, "cpu"),
        (0, True, {}, "mps"),
        (2, True, {}, "cuda:0"),
        (2, False, {"LOCAL_RANK": "1"}, "cuda:1"),
        (2, True, {"ACCELERATE_USE_CPU": "true"}, "cpu"),
    ],
)
def test_default_device(monkeypatch, cuda, mps, environment, device):
    there(monkeypatch, cuda, mps)
    for name in ("LOCAL_RANK", "ACCELERATE_USE_CPU"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert choose_device() == torch.device(device)


def test_a_requested_device_is_used(monkeypatch):
    there(monkeypatch, cuda=2, mps=True)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")  # only affects the default
    assert [str(choose_device(name)) for name in ("cpu", "mps", "cuda", "cuda:1")] == ["cpu", "mps", "cuda:0", "cuda:1"]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("tpu", "must be cpu, mps, cuda or cuda:N; got 'tpu'"),
        ("cuda:x", "must be cpu, mps, cuda or cuda:N"),
        ("cuda", "torch finds no CUDA device here"),
        ("mps", "torch finds no Apple GPU here"),
    ],
)
def test_unavailable_devices_are_refused(monkeypatch, asked, message):
    there(monkeypatch)
    with pytest.raises(InputError, match=message):
        choose_device(asked)


def test_a_missing_gpu_is_refused(monkeypatch):
    there(monkeypatch, cuda=2)
    with pytest.raises(InputError, match="only cuda:0, cuda:1 here"):
        choose_device("cuda:2")


def test_peak_memory_includes_allocations():
    before = peak_memory(torch.device("cpu"))
    block = torch.ones(64 * 2**20, dtype=torch.uint8)
    assert peak_memory(torch.device("cpu")) >= max(before, block.numel())
