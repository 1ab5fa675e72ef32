"""The U-Nets of the papers, at the size at which they were published.

Attention is given by downsampling factors, so one configuration serves any image size; the comments say which sizes
were meant. Labels, learned variances (twice the output channels) and concatenated conditions are `build`'s business.
"""

from __future__ import annotations

from dataclasses import replace
from math import sqrt

from .autoencoder import AutoencoderOptions
from .discriminator import DiscriminatorOptions
from .refinenet import RefineNetOptions
from .unet import UNetOptions

DDPM_CIFAR10 = UNetOptions(  # Ho et al. 2020, appendix B: 32x32, 35.7 M parameters
    channels=128,
    mult=(1, 2, 2, 2),
    blocks=2,
    attention=(2,),
    dropout=0.1,
    embedding="sin-first",
    conditioning="add",
    resample="conv-right",
    eps=1e-6,
    init="xavier",
)
DDPM_256 = replace(DDPM_CIFAR10, mult=(1, 1, 2, 2, 4, 4), attention=(16,), dropout=0.0)  # 114 M

IDDPM_CIFAR10 = UNetOptions(  # Nichol & Dhariwal 2021: 32x32, attention at 16 and 8
    channels=128,
    mult=(1, 2, 2, 2),
    blocks=3,
    attention=(2, 4),
    heads=4,
    dropout=0.3,
    resample="conv",
)
IDDPM_IMAGENET64 = replace(IDDPM_CIFAR10, mult=(1, 2, 3, 4), attention=(4, 8), dropout=0.0)  # 64x64

ADM_IMAGENET64 = UNetOptions(  # Dhariwal & Nichol 2021: 64x64, attention at 32, 16 and 8, 296 M; EDM trains it too
    channels=192,
    mult=(1, 2, 3, 4),
    blocks=3,
    attention=(2, 4, 8),
    channels_per_head=64,
    dropout=0.1,
)
ADM_IMAGENET128 = replace(  # 422 M
    ADM_IMAGENET64,
    channels=256,
    mult=(1, 1, 2, 3, 4),
    blocks=2,
    attention=(4, 8, 16),
    heads=4,
    channels_per_head=None,
    dropout=0.0,
)
ADM_IMAGENET256 = replace(  # 554 M; attention at 32, 16 and 8, as everywhere in ADM
    ADM_IMAGENET64, channels=256, mult=(1, 1, 2, 2, 4, 4), blocks=2, attention=(8, 16, 32), dropout=0.0
)
ADM_IMAGENET512 = replace(  # 559 M
    ADM_IMAGENET256, mult=(0.5, 1, 1, 2, 2, 4, 4), stem_mult=0.5, attention=(16, 32, 64)
)
ADM = {64: ADM_IMAGENET64, 128: ADM_IMAGENET128, 256: ADM_IMAGENET256, 512: ADM_IMAGENET512}
"""Dhariwal & Nichol's networks, by the side of the image."""
ADM_CLASSIFIER = {
    size: replace(o, channels=128, blocks=4 if size == 64 else 2, heads=1, channels_per_head=64, dropout=0.0)
    for size, o in ADM.items()
}
"""And the classifiers that guide them, for `build_encoder`."""

FLOW_MATCHING_CIFAR10 = UNetOptions(  # Lipman et al. 2023: 32x32, attention at 16
    channels=256, mult=(1, 2, 2, 2), blocks=2, attention=(2,), channels_per_head=64
)

EDM_DDPMPP_CIFAR10 = UNetOptions(  # Karras et al. 2022, table 7: 32x32, attention at 16, 55.7 M
    channels=128,
    mult=(2, 2, 2),
    blocks=4,
    attention=(2,),
    decoder_attention="last",
    dropout=0.13,
    embedding="sin-first",
    early_labels=True,
    augment=9,
    conditioning="add",
    skip_scale=sqrt(0.5),
    resample_projection=True,
    eps=1e-6,
    init="xavier",
)
EDM_NCSNPP_CIFAR10 = replace(
    EDM_DDPMPP_CIFAR10, embedding="fourier", embedding_mult=2, taps=(1, 3, 3, 1), input_pyramid=True
)
EDM_DDPMPP_64 = replace(EDM_DDPMPP_CIFAR10, mult=(1, 2, 2, 2), attention=(4,), dropout=0.05)  # FFHQ, AFHQ: 64x64
EDM_NCSNPP_64 = replace(EDM_NCSNPP_CIFAR10, mult=(1, 2, 2, 2), attention=(4,), dropout=0.05)

NCSNPP_CIFAR10 = replace(  # Song et al. 2021, appendix H: NCSN++ of the VE SDE, 32x32, attention at 16, 62.8 M
    EDM_NCSNPP_CIFAR10, mult=(1, 2, 2, 2), dropout=0.1, augment=0
)
NCSNPP_DEEP_CIFAR10 = replace(NCSNPP_CIFAR10, blocks=8)  # 107.6 M
DDPMPP_CIFAR10 = replace(EDM_DDPMPP_CIFAR10, mult=(1, 2, 2, 2), dropout=0.1, augment=0)  # of VP, sub-VP: 61.8 M
DDPMPP_DEEP_CIFAR10 = replace(DDPMPP_CIFAR10, blocks=8)  # 106.6 M

DDGAN_CIFAR10 = UNetOptions(  # Xiao et al. 2022: 32x32, attention at 16
    channels=128,
    mult=(1, 2, 2, 2),
    blocks=2,
    attention=(2,),
    decoder_attention="last",
    embedding="sin-first",
    conditioning="add",
    skip_scale=sqrt(0.5),
    resample_projection=True,
    taps=(1, 3, 3, 1),
    input_pyramid=True,
    eps=1e-6,
    init="xavier",
)
DDGAN_256 = replace(DDGAN_CIFAR10, channels=64, mult=(1, 1, 2, 2, 4, 4), attention=(16,))
DDGAN_CRITIC_32 = DiscriminatorOptions(channels=128, mult=(1, 2, 4, 4), whole=1, taps=(1, 3, 3, 1))
DDGAN_CRITIC_256 = DiscriminatorOptions(channels=128, mult=(2, 4, 4, 4, 4, 4), whole=0, taps=(1, 3, 3, 1))

LDM_KL_F8 = AutoencoderOptions(channels=128, mult=(1, 2, 4, 4), blocks=2, latent=4)  # Rombach et al. 2022
LDM_VQ_F4 = AutoencoderOptions(
    channels=128, mult=(1, 2, 4), blocks=2, latent=3, regularise="vq", codes=8192, legacy=True
)
LDM_VQ_F4_NO_ATTENTION = replace(LDM_VQ_F4, middle_attention=False)
LDM_TEXT = UNetOptions(  # latents of 32x32x4, transformers at 32, 16 and 8
    channels=320,
    mult=(1, 2, 4, 4),
    blocks=2,
    attention=(1, 2, 4),
    heads=8,
    transformer=1,
    conditioning="add",
    resample="conv",
)
LDM_IMAGENET = replace(LDM_TEXT, channels=192, mult=(1, 2, 3, 5), attention=(2, 4, 8), heads=1)  # latents of 64x64x3
LDM_CELEBAHQ = replace(LDM_IMAGENET, channels=224, mult=(1, 2, 3, 4), channels_per_head=32, transformer=0)
LDM_CHURCHES = UNetOptions(channels=192, mult=(1, 2, 2, 4, 4), blocks=2, attention=(1, 2, 4, 8), heads=8)  # 32x32x4
LDM_INPAINTING = replace(  # latents of 64x64x3, and 4 channels told: "big", 387 M
    LDM_CELEBAHQ, channels=256, heads=8, channels_per_head=None, resample="residual"
)
LDM_SUPER_RESOLUTION = replace(LDM_CELEBAHQ, channels=160, mult=(1, 2, 2, 4), attention=(8,))  # and 3 channels told

NCSN_32 = RefineNetOptions()  # Song & Ermon 2019, appendix A: CIFAR-10 and CelebA at 32x32, 30.1 M
NCSN_MNIST = replace(NCSN_32, channels=64)
NCSNV2_32 = replace(NCSN_32, levels=None)  # Song & Ermon 2020: 32x32 and 64x64, 29.7 M
NCSNV2_128 = RefineNetOptions(mult=(1, 2, 2, 4, 4), dilations=(1, 1, 1, 2, 4), levels=None)  # 96x96 and 128x128
NCSNV2_256 = RefineNetOptions(mult=(1, 2, 2, 2, 4, 4), dilations=(1, 1, 1, 1, 2, 4), levels=None)  # 256x256
