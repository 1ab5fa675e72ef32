"""What the machine is asked to do fastest."""

import pytest
import torch

from unnoise import runtime
from unnoise.errors import UsageProblem


def test_precision_follows_what_the_processor_has(monkeypatch):
    assert runtime.best_precision("cpu") in ("bf16", "fp32")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    assert runtime.best_precision("cpu") == "fp32"
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert runtime.best_precision("cpu") == "bf16"
    for capability, wanted in (((6, 1), "fp32"), ((7, 5), "fp16"), ((9, 0), "bf16")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, c=capability: c)
        assert runtime.best_precision("cuda") == wanted
    assert runtime.best_precision("mps") == "fp32"


def test_autocast():
    layer, x = torch.nn.Linear(4, 4), torch.randn(2, 4)
    with runtime.autocast("cpu", "bf16"):
        assert layer(x).dtype == torch.bfloat16
    with runtime.autocast("cpu", "fp32"):
        assert layer(x).dtype == torch.float32
    with pytest.raises(UsageProblem, match="bf17"):
        runtime.autocast("cpu", "bf17")


def test_allocator_keeps_working_after_tuning():
    told = runtime.tune_allocator()
    assert told is runtime.tune_allocator()
    assert torch.ones(1 << 22).sum() == 1 << 22


def test_device_is_one_torch_can_use():
    assert torch.zeros(1, device=runtime.default_device()).sum() == 0
