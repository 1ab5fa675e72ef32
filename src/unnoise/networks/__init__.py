"""Networks: plain modules `network(x, t, cond=None) -> Tensor` that know nothing of diffusion."""

from unnoise.networks.mlp import MLP, MLPOptions
from unnoise.networks.unet import UNet, UNetOptions

__all__ = ["MLP", "MLPOptions", "UNet", "UNetOptions"]
