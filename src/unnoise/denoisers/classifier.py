r"""Classifier guidance: a classifier of noisy states pulls the score towards a class (2105.05233; 2011.13456).

    grad log p(x_t | y) = grad log p(x_t) + grad log p(y | x_t)

In the guess, x_0 = (x_t + sigma^2 score) / alpha, a gradient g in the score is a move by sigma^2 / alpha g; in the noise, by
-sigma g. So every sampler is guided by a denoiser that has moved, and DDIM exactly as published (ADM's algorithm 2). ADM's
ancestral sampler (algorithm 1) shifts the mean of each reverse step by its variance times g instead: `GuidedAncestral`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from ..errors import UsageProblem
from ..laws import Estimate, Pull
from ..processes import Gaussian
from ..scalars import times
from .denoiser import Cond, Denoiser, NetworkDenoiser
from .guidance import Guidance, Guided, moved, needs_gaussian
from .preconditioning import Preconditioning

LogProb = Callable[[Tensor, Tensor, Cond], Tensor]
"""log p(y | x_t) + any function of y and t, (batch,), differentiable in x_t: `log_prob(xt, t, cond)`."""


class ClassifyingDenoiser(NetworkDenoiser):
    """A network beside a classifier of the same states, which sees them as the network does.

    Labels reach the network only where it is `conditional`; the classifier is never told them.
    """

    def __init__(
        self,
        network: nn.Module,
        classifier: nn.Module,
        process: Gaussian,
        preconditioning: Preconditioning,
        learned_range: bool = False,
        conditional: bool = False,
    ):
        super().__init__(network, process, preconditioning, learned_range)
        self.classifier, self.conditional = classifier, conditional

    def forward(self, xt: Tensor, t: Tensor, cond: Cond = None) -> Estimate:
        if cond is not None and not self.conditional:
            cond = {name: value for name, value in cond.items() if name != "label"} or None
        return super().forward(xt, t, cond)

    def log_probs(self, xt: Tensor, t: Tensor) -> Tensor:
        """log p(y | x_t) for every class, (batch, classes), nats."""
        return self.classifier(*self.seen(xt, t)).float().log_softmax(1)

    def log_prob(self, xt: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """log p(y | x_t) of the labels in `cond`, (batch,), nats; 0 where there is none (-1)."""
        label = None if cond is None else cond.get("label")
        if label is None:
            raise UsageProblem("a classifier guides towards a label, and there is none; give labels, or leave it out")
        found = self.log_probs(xt, t).gather(1, label.clamp(min=0)[:, None])[:, 0]
        return found.where(label >= 0, 0.0)


def classifier_guidance(weight: float = 1.0, log_prob: LogProb | None = None) -> Guidance:
    r"""x_0 + weight sigma^2 / alpha grad log p(y | x_t): the score of p(x_t) p(y | x_t)^weight.

    weight     the paper's s: 0 leaves the guess as it is, 1 is the conditional law where the classifier is exact, more
               sharpens. On a conditional model it comes on top of the condition.
    log_prob   a classifier (`LogProb`); the denoiser's own, if left out.

    Where no signal is left (alpha = 0) the guess stays. The published samplers threshold the guess first and let the
    classifier pull at the result: give `clip()` before it. Its gradient is a constant for guidance around it.
    Raises UsageProblem for a denoiser without a classifier.
    """

    def guide(denoiser: Denoiser) -> Denoiser:
        needs_gaussian(denoiser, "classifier guidance")
        ask = own_classifier(denoiser).log_prob if log_prob is None else log_prob

        def rule(denoiser: Denoiser, xt: Tensor, t: Tensor, cond: Cond) -> Estimate:
            estimate: Estimate = denoiser(xt, t, cond)  # type: ignore[assignment]
            if weight == 0:
                return estimate
            with torch.enable_grad():
                x = xt.detach().requires_grad_()
                (gradient,) = torch.autograd.grad(ask(x, t, cond).sum(), x)
            return pulled(estimate, denoiser.process, xt, t, weight * gradient)

        return Guided(denoiser, rule)

    return guide


def pulled(estimate: Estimate, process, xt: Tensor, t: Tensor, gradient: Tensor) -> Estimate:
    """The estimate whose score has the gradient (of the state) added to it."""
    point = process.at(t, xt)
    reach = torch.where(point.alpha > 0, point.sigma**2 / point.alpha, 0.0)
    before = estimate.pull or Pull(estimate, torch.zeros_like(gradient))
    pull = before._replace(gradient=before.gradient + gradient)
    return replace(moved(estimate, process.data(times(reach, gradient))), pull=pull)


def own_classifier(denoiser: Denoiser) -> ClassifyingDenoiser:
    """The denoiser that has a classifier, beneath whatever guides it."""
    inner: nn.Module = denoiser
    while isinstance(inner, Guided):
        inner = inner.denoiser
    if not isinstance(inner, ClassifyingDenoiser):
        raise UsageProblem(
            "this model has no classifier to guide it; train one beside it, as adm does, or guide it in another way"
        )
    return inner
