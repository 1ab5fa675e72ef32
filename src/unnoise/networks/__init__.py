"""Networks: plain modules `network(x, t, cond=None) -> Tensor` that know nothing of diffusion."""

from .mlp import MLP, MLPOptions
from .refinenet import RefineNet, RefineNetOptions
from .unet import UNet, UNetOptions

__all__ = ["MLP", "MLPOptions", "RefineNet", "RefineNetOptions", "UNet", "UNetOptions"]
