"""Small tensors only: one thread is quickest, and the same on every machine."""

import torch

torch.set_num_threads(1)
