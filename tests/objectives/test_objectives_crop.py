"""Crops: sound and spectrogram are cut at the same place, which belongs to the example."""

import pytest
import torch

from unnoise.errors import UsageProblem
from unnoise.objectives import Cropped, Loss, Objective
from unnoise.rng import Rng


class Seen(Objective):
    def forward(self, denoiser, x0, cond, rng, turn="denoiser"):
        self.x, self.cond = x0, cond
        return Loss(x0.flatten(1).mean(1))


def sounds(batch=64):
    x = torch.arange(64.0).expand(batch, 1, 64)
    return x, {"mel": (8 * torch.arange(9.0)).expand(batch, 3, 9), "label": torch.arange(batch)}


def test_frames_belong_to_their_samples():
    inner = Seen()
    x, cond = sounds()
    Cropped(inner, 16, hop=8)(None, x, cond, Rng.from_seeds(range(64)))
    assert inner.x.shape == (64, 1, 16) and inner.cond["mel"].shape == (64, 3, 3)
    starts = inner.x[:, 0, 0]
    assert torch.equal(inner.x[:, 0], starts[:, None] + torch.arange(16.0))
    assert torch.equal(inner.cond["mel"][:, 1], starts[:, None] + 8 * torch.arange(3.0))
    assert set(starts.tolist()) == {8.0 * k for k in range(7)}  # every place, the last included
    assert torch.equal(inner.cond["label"], cond["label"])


def test_the_place_is_the_examples_own():
    inner = Seen()
    x, _ = sounds()
    Cropped(inner, 16)(None, x[:5], None, Rng.from_seeds([5, 6, 7, 8, 9]))
    whole = inner.x
    Cropped(inner, 16)(None, x[:1], None, Rng.from_seeds([7]))
    assert torch.equal(inner.x[0], whole[2]) and inner.cond is None


def test_impossible_crops_are_told():
    with pytest.raises(UsageProblem, match="multiple of the hop"):
        Cropped(Seen(), 20, hop=8)
    with pytest.raises(UsageProblem, match="does not fit"):
        Cropped(Seen(), 128)(None, sounds()[0], None, Rng.from_seeds(range(64)))
