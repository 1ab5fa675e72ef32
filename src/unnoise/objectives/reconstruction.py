"""What teaches an autoencoder: its reconstructions, the law of its latents, and a critic of patches (2112.10752)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..denoisers.denoiser import Cond
from ..networks.patches import PatchCritic
from ..rng import Rng
from ..spaces import Latents
from .balance import balance
from .matching import mean_event
from .objective import Loss, Objective


class Reconstruction(Objective):
    r"""mean_d |x - x_r| / e^s + s + penalty of the latents, with s learned: Laplace's likelihood, in nats for each number.

    That is the published loss divided by the numbers of an image, and without LPIPS, whose weights no package ships. (The public
    code means to learn s as well, but does not give it to its optimiser: there it stays 0.)
    """

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(()))

    def fit(self, error: Tensor) -> Tensor:
        return error / self.log_scale.exp() + self.log_scale

    def forward(self, denoiser: Latents, x0: Tensor, cond: Cond, rng: Rng, turn: str = "denoiser") -> Loss:  # type: ignore[override]
        law = denoiser.law(x0)
        guess = denoiser.autoencoder.decode(denoiser.settled(law.sample(rng))).to(x0.dtype)
        error, penalty = mean_event((guess - x0).abs()), denoiser.penalty(law, x0[0].numel())
        return Loss(self.fit(error) + penalty, terms={"error": error, "penalty": penalty})


class Criticised(Reconstruction):
    r"""The same, and after `after` steps d (-mean D(x_r)), D a critic of patches that is taught in turn by the hinge loss.

    d = share |gradient of the rest| / (|gradient of -D| + 1e-4), by the decoder's last layer (`balance`).
    """

    turns = ("autoencoder", "critic")
    steps: Tensor

    def __init__(self, channels: int, after: int = 50_000, share: float = 0.5, width: int = 64):
        super().__init__()
        self.critic, self.after, self.share = PatchCritic(channels, width), after, share
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def parameters_of(self, denoiser: nn.Module, turn: str) -> Iterable[nn.Parameter]:  # type: ignore[override]
        if turn == "critic":
            return self.critic.parameters()
        return [*denoiser.parameters(), self.log_scale]

    def forward(self, denoiser: Latents, x0: Tensor, cond: Cond, rng: Rng, turn: str = "autoencoder") -> Loss:  # type: ignore[override]
        on = float(self.steps // len(self.turns) >= self.after)
        with torch.set_grad_enabled(turn == "autoencoder" and torch.is_grad_enabled()):
            law = denoiser.law(x0)
            guess = denoiser.autoencoder.decode(denoiser.settled(law.sample(rng))).to(x0.dtype)
        if turn == "critic":
            real, made = (self.critic(x).float() for x in (x0, guess))
            return Loss(on * 0.5 * mean_event(F.relu(1 - real) + F.relu(1 + made)))
        error, penalty = mean_event((guess - x0).abs()), denoiser.penalty(law, x0[0].numel())
        fit, fooled = self.fit(error), -mean_event(self.critic(guess).float())
        weight = self.share * balance(fit, fooled, denoiser.autoencoder.last)
        terms = {"error": error, "penalty": penalty, "critic": fooled, "critic_weight": weight.expand(len(x0))}
        return Loss(fit + penalty + on * weight * fooled, terms=terms)

    def observe(self, loss: Loss) -> None:
        self.steps += 1
