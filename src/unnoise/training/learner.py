"""What is trained: the weights, their averages and an optimizer a turn, on one process or on many."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import pairwise

import torch
from torch import Tensor, nn

from ..errors import Problem, UsageProblem
from ..rng import Rng, stream
from .checkpoint import load_into
from .ema import Averages
from .options import TrainingOptions
from .shards import copy_into, local, sharded, whole


class Lesson(nn.Module):
    """Objective and denoiser as one module, so that the forward pass of the distributed wrapper is the loss."""

    def __init__(self, objective: nn.Module, denoiser: nn.Module):
        super().__init__()
        self.objective, self.denoiser = objective, denoiser
        self.loss_type: type = object

    def forward(self, x0: Tensor, cond, rng: Rng, turn: str) -> tuple[Tensor, dict[str, Tensor]]:
        loss = self.objective(self.denoiser, x0, cond, rng, turn)
        self.loss_type = type(loss)
        return loss.per_example.sum(), _flat(loss)


class Learner:
    """One `step` at a time, from batches to new weights; `files` and `load` are the whole of what must be kept."""

    def __init__(self, objective: nn.Module, denoiser: nn.Module, options: TrainingOptions, accelerator):
        self.options, self.accelerator = options, accelerator
        self.lesson = Lesson(objective, denoiser)
        self.turns = tuple(getattr(objective, "turns", ("denoiser",)))
        self.names: list[str] = []
        processes, rank = accelerator.num_processes, accelerator.process_index
        if options.batch_size % processes:
            raise UsageProblem(f"batch_size {options.batch_size} must be a multiple of the {processes} processes")
        share = options.batch_size // processes
        cuts = [rank * share + share * i // options.accumulate for i in range(options.accumulate + 1)]
        self.places = [range(a, b) for a, b in pairwise(cuts) if a < b]

        trainable = {id(p) for p in self.lesson.parameters() if p.requires_grad}
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        for turn in self.turns:
            moved = [p for p in _moved(objective, denoiser, turn) if id(p) in trainable]
            moved = list(dict.fromkeys(moved))  # objective and denoiser may share a part
            if not moved:
                raise UsageProblem(
                    f"there is nothing to train in the turn {turn!r}: none of its parameters is trainable"
                )
            own = dataclasses.replace(options, **getattr(objective, "turn_options", {}).get(turn, {}))
            self.optimizers[turn] = torch.optim.AdamW(
                moved, lr=own.lr, betas=own.betas, eps=own.eps, weight_decay=own.weight_decay, fused=True
            )
        self.rates = {turn: optimizer.param_groups[0]["lr"] for turn, optimizer in self.optimizers.items()}
        self.wrapped, *prepared = accelerator.prepare(self.lesson, *self.optimizers.values())
        self.optimizers = dict(zip(self.turns, (p.optimizer for p in prepared), strict=True))
        self.trainable = [p for p in self.lesson.parameters() if p.requires_grad]
        self.moved = {turn: optimizer.param_groups[0]["params"] for turn, optimizer in self.optimizers.items()}
        # In float16 small gradients vanish: the loss is scaled up, and the scale adapts.
        self.scaler = torch.amp.GradScaler(accelerator.device.type, enabled=options.precision == "fp16")
        self.averages = Averages(
            [local(p) for p in denoiser.parameters() if p.requires_grad],
            options.ema,
            options.ema_rampup,
            options.ema_power,
        )

    def step(self, step: int, batches: list, factor: float) -> Tensor:
        """Learn from one global batch, of which `batches` are this process's micro-batches.

        `factor` multiplies the learning rate. Returns the means over the global batch, named by `self.names`.
        """
        means = []
        names = []
        prepare = getattr(self.lesson.objective, "prepare", None)
        active = self.turns if prepare is None else prepare(step, self.shown)
        for number, turn in enumerate(self.turns):
            if turn not in active:
                continue
            prefix = f"{turn}/" if len(active) > 1 else ""
            values = self._gradients(step, number, turn, batches)
            norm = self._move(turn, factor)
            self._observe(values)
            shown = {"loss": values["per_example"], **_group(values).get("terms", {}), "grad_norm": norm}
            means += [value.mean().float() for value in shown.values()]
            names += [prefix + name for name in shown]
        self.averages.update(step, self.options.batch_size)
        follow = getattr(self.lesson.objective, "follow", None)
        if follow is not None:
            follow(self.lesson.denoiser)
        self.names = names
        return torch.stack(means)

    def _gradients(self, step: int, number: int, turn: str, batches: list) -> dict[str, Tensor]:
        """Leave the gradient of the mean loss over the global batch in the parameters; return the losses and terms."""
        device, options = self.accelerator.device, self.options
        if len(self.turns) > 1:
            moved = {id(p) for p in self.moved[turn]}
            for parameter in self.trainable:
                parameter.requires_grad_(id(parameter) in moved)
        parts = []
        for places, batch in zip(self.places, batches, strict=True):
            rng = Rng.for_step(options.seed, step, places, device, total=options.batch_size)
            rng = rng.spawn(number) if number else rng
            key = stream(options.seed, step, number, places.start).initial_seed()
            torch.manual_seed(key)  # for draws that take no rng: dropout
            x0 = batch.x.to(device, non_blocking=True)
            cond = None if batch.cond is None else {k: v.to(device, non_blocking=True) for k, v in batch.cond.items()}
            last = places is self.places[-1]
            with nullcontext() if last else self.accelerator.no_sync(self.wrapped):
                total, values = self.wrapped(x0, cond, rng, turn)
                # The distributed wrapper takes the mean over processes; the mean over the global batch is wanted.
                self.scaler.scale(total * (self.accelerator.num_processes / options.batch_size)).backward()
            parts.append(values)
        exact = torch.float32 if device.type == "mps" else torch.float64
        table = torch.stack([torch.cat([part[name] for part in parts]).to(exact) for name in parts[0]], 1)
        return dict(zip(parts[0], self.accelerator.gather(table).unbind(1), strict=True))

    def _move(self, turn: str, factor: float) -> Tensor:
        """One step of a turn's optimizer; returns the norm of the gradient before it was clipped."""
        optimizer = self.optimizers[turn]
        self.scaler.unscale_(optimizer)
        gradients = [p.grad for p in self.moved[turn] if p.grad is not None]
        norm = whole(torch.nn.utils.get_total_norm(gradients))
        if self.options.clip is not None:
            torch.nn.utils.clip_grads_with_norm_(self.moved[turn], self.options.clip, norm)
        for group in optimizer.param_groups:
            group["lr"] = self.rates[turn] * factor
        self.scaler.step(optimizer)
        self.scaler.update()
        optimizer.zero_grad()
        return norm

    def _observe(self, values: dict[str, Tensor]) -> None:
        observe = getattr(self.lesson.objective, "observe", None)
        if observe is not None:
            observe(self.lesson.loss_type(**_group(values)))

    def files(self) -> dict[str, dict[str, Tensor]]:
        """All that a resumed run needs, whole tensors on the CPU by file. All processes call; the main one keeps."""
        files = {"model": self._keep(self.lesson.denoiser.state_dict())}
        for name in self.averages.values:
            with self.averages.swapped(name):
                files[name] = self._keep(self.lesson.denoiser.state_dict())
        files["objective"] = self._keep(self.lesson.objective.state_dict())
        files["optimizer"] = self._keep({name: value for name, _, value in self._optimizer_state()})
        return files

    def load(self, read, where: str) -> None:
        """Take up what `files` gave; `read(name)` returns the tensors of a file."""
        denoiser, objective = self.lesson.denoiser, self.lesson.objective
        for name in self.averages.values:
            load_into(denoiser.state_dict(), read(name), where)
            with torch.no_grad():
                torch._foreach_copy_(self.averages.values[name], self.averages.parameters)
        load_into(denoiser.state_dict(), read("model"), where)
        load_into(objective.state_dict(), read("objective"), f"the objective of {where}")
        self._load_optimizers(read("optimizer"), where)

    def _keep(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        kept = {}
        for name, tensor in tensors.items():
            tensor = whole(tensor)
            if self.accelerator.is_main_process:
                kept[name] = tensor.to("cpu", copy=True).contiguous()
        return kept

    def _optimizer_state(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        """(turn/parameter/kind, the parameter, its state); AdamW's kinds are step, exp_avg, exp_avg_sq."""
        names = {id(p): name for name, p in self.lesson.named_parameters()}
        for turn, optimizer in self.optimizers.items():
            for parameter, state in optimizer.state.items():
                for kind, value in state.items():
                    yield f"{turn}/{names[id(parameter)]}/{kind}", parameter, value

    @torch.no_grad()
    def _load_optimizers(self, tensors: dict[str, Tensor], where: str) -> None:
        """A parameter that had no gradient yet has no state, here as there."""
        parameters = {
            f"{turn}/{name}": (optimizer, p)
            for turn, optimizer in self.optimizers.items()
            for name, p in self.lesson.named_parameters()
            if any(p is q for q in self.moved[turn])
        }
        for name, value in tensors.items():
            key, kind = name.rsplit("/", 1)
            if key not in parameters or (kind != "step" and value.shape != parameters[key][1].shape):
                raise Problem(f"the optimizer of {where} is of another model ({name}); train anew in another folder")
            optimizer, parameter = parameters[key]
            if kind == "step":
                optimizer.state[parameter][kind] = value.to(parameter.device)
            else:
                optimizer.state[parameter][kind] = torch.zeros_like(parameter, requires_grad=False)
                copy_into(optimizer.state[parameter][kind], value)

    @contextmanager
    def shown(self):
        """Inside, the denoiser is as it should be shown: averaged weights, evaluation mode, whole on every process."""
        name = next(iter(self.averages.values), None)
        modes = [(module, module.training) for module in self.lesson.modules()]
        split = sharded(self.lesson)
        with self.averages.swapped(name), torch.no_grad():
            self.lesson.eval()
            for module in split:
                module.unshard()
            try:
                yield self.lesson.denoiser
            finally:
                for module in split:
                    module.reshard()
                for module, mode in modes:
                    module.training = mode

    def release(self) -> None:
        """Leave the parameters as they were found: all that were trained require a gradient, none holds one."""
        for parameter in self.trainable:
            parameter.requires_grad_(True)
            parameter.grad = None


def _flat(loss) -> dict[str, Tensor]:
    """All that a loss says of the examples, by name: per_example, t, ..., and terms/NAME."""
    values = {}
    for field in dataclasses.fields(loss):
        value = getattr(loss, field.name)
        if isinstance(value, dict):
            values |= {f"{field.name}/{name}": term.detach() for name, term in value.items()}
        elif value is not None:
            values[field.name] = value.detach()
    return values


def _group(values: dict[str, Tensor]) -> dict:
    """What was flat, as the fields of a loss."""
    fields: dict = {}
    for name, value in values.items():
        field, _, term = name.partition("/")
        if term:
            fields.setdefault(field, {})[term] = value
        else:
            fields[field] = value
    return fields


def _moved(objective: nn.Module, denoiser: nn.Module, turn: str) -> list[nn.Parameter]:
    parameters_of = getattr(objective, "parameters_of", None)
    if parameters_of is not None:
        return list(parameters_of(denoiser, turn))
    return [*denoiser.parameters(), *objective.parameters()]
