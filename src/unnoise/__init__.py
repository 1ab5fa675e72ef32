"""unnoise: diffusion and generative models from the papers, out of one set of parts.

A *process* destroys data, a *denoiser* guesses what was there, an *objective* teaches it, a *sampler* walks back, a *paper*
names the combination.

    from unnoise.data import load
    from unnoise.generate import generate
    from unnoise.model import Model, train_model
    from unnoise.papers.edm import EDM

    model, result = train_model(EDM(), load("fashion-mnist"), "runs/mine")
    generate(Model.load("runs/mine"), "samples", count=64)
"""

__version__ = "0.1.0"
