"""Networks: plain modules `network(x, t, cond=None) -> Tensor` that know nothing of diffusion."""

from .encoder import Encoder
from .mlp import MLP, MLPOptions
from .refinenet import RefineNet, RefineNetOptions
from .transformer import Transformer, TransformerOptions
from .unet import UNet, UNetOptions

__all__ = [
    "MLP",
    "Encoder",
    "MLPOptions",
    "RefineNet",
    "RefineNetOptions",
    "Transformer",
    "TransformerOptions",
    "UNet",
    "UNetOptions",
]
