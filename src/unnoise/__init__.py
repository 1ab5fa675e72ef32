"""unnoise: diffusion and generative models from the papers, out of one set of parts.

A *process* destroys data, a *denoiser* guesses what was there, an *objective* teaches it, a *sampler* walks back, a *paper*
names the combination.
"""

__version__ = "0.1.0"
