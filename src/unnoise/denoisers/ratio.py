r"""A network that guesses the ratios p_t(y) / p_t(x) of tokens that jump (2310.16834)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UsageProblem
from ..processes import AbsorbGraph, Jump, Ratios
from .denoiser import Cond, Denoiser


class RatioDenoiser(Denoiser[Jump]):
    r"""log s = network(x_t, sbar(t)), of each token in each place; 0 for x_t itself.

    At a MASK the ratio of a token is q / (e^sbar - 1), q its probability given what is seen. There the network's output is
    log(n q), n tokens, about 0: log s = network - log(e^sbar - 1) - log n. With `normalised`, q is the softmax of the output,
    and the score entropy is a weighted cross-entropy.
    """

    def __init__(self, network: nn.Module, process: Jump, normalised: bool = False):
        super().__init__()
        self.network, self.process, self.normalised = network, process, normalised
        self.absorbs = isinstance(process.graph, AbsorbGraph)
        if normalised and not self.absorbs:
            raise UsageProblem("normalised ratios need the absorbing graph; leave normalised out for the uniform one")

    def forward(self, xt: Tensor, t: Tensor, cond: Cond = None) -> Ratios:
        graph, point = self.process.graph, self.process.at(t, xt)
        total: Tensor = point.total  # type: ignore[assignment]
        dtype = next((w.dtype for w in self.network.parameters()), torch.float32)
        output = self.network(xt, total.flatten().to(dtype), cond)
        output = output.to(torch.promote_types(output.dtype, torch.float32))
        if self.absorbs:
            level = torch.expm1(total).log()
            if self.normalised:
                output = output.log_softmax(-1) - level.to(output.dtype)
            else:
                output = output - (level + torch.tensor(graph.tokens).double().log()).to(output.dtype)
            output = F.pad(output, (0, 1))
        return Ratios(graph, total, xt, output.scatter(-1, xt[..., None], 0.0))
