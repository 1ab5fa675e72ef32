"""Parts of a data set that experiments train on."""

import torch

from unnoise.data import load
from unnoise.recipe import Spec
from unnoise.verify.lab import Chosen, First


def test_chosen_rows_are_a_data_set_of_their_own():
    data = load("digits")
    chosen = Chosen(data, [5, 2, 9])
    assert len(chosen) == 3 and chosen.shape == data.shape
    torch.testing.assert_close(chosen.batch([0, 2]).x, data.batch([5, 9]).x)
    assert chosen.batch([1]).label.tolist() == [int(data.labels[2])]
    torch.testing.assert_close(First(data, 2).batch([0, 1]).x, data.batch([0, 1]).x)
    names = {
        part.fingerprint for part in (data, chosen, Chosen(data, [5, 2, 8]), Chosen(data, [2, 5, 9]), First(data, 3))
    }
    assert len(names) == 5
    assert Spec.of(chosen).shape == (1, 8, 8)
