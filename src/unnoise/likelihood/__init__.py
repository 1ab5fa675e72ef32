"""Likelihoods, in nats and bits per dimension: the flow's, and three bounds, under one call."""

from .bound import BoundTerms, Discretised, bits_per_dim, check_chain, check_reverse, decoder_nats, variational_bound
from .call import METHODS, Chain, Continuous, Flow, ImportanceWeighted, Likelihood, Method, likelihood
from .continuous import Softmax, continuous_bound, diffusion_nats
from .dequantise import Dequantiser, Uniform, Variational, bin_width
from .flow import flow_nats
from .importance import importance_weighted_bound
from .jump import jump_bound, score_entropy_nats
from .orders import OrderAgnostic, independent_masks, losses_by_step, per_symbol

__all__ = [
    "METHODS", "BoundTerms", "Chain", "Continuous", "Dequantiser", "Discretised", "Flow", "ImportanceWeighted", "Likelihood",
    "Method", "OrderAgnostic", "Softmax", "Uniform", "Variational", "bin_width", "bits_per_dim", "check_chain", "check_reverse",
    "continuous_bound",
    "decoder_nats", "diffusion_nats", "flow_nats", "importance_weighted_bound", "independent_masks", "jump_bound", "likelihood",
    "losses_by_step", "per_symbol",
    "score_entropy_nats", "variational_bound",
]  # fmt: skip
