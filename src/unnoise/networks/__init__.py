"""Networks: plain modules `network(x, t, cond=None) -> Tensor` that know nothing of diffusion."""

from .discriminator import Discriminator, DiscriminatorOptions
from .encoder import Encoder
from .mlp import MLP, MLPOptions
from .refinenet import RefineNet, RefineNetOptions
from .transformer import Transformer, TransformerOptions
from .unet import UNet, UNetOptions
from .wavenet import WaveNet, WaveNetOptions

__all__ = [
    "MLP",
    "Discriminator",
    "DiscriminatorOptions",
    "Encoder",
    "MLPOptions",
    "RefineNet",
    "RefineNetOptions",
    "Transformer",
    "TransformerOptions",
    "UNet",
    "UNetOptions",
    "WaveNet",
    "WaveNetOptions",
]
