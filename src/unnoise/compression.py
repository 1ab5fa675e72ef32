r"""Lossless compression by a model of text: every symbol costs -log2 of what the model gave it (2110.02037).

A text is cut into windows of the model's length. In one order of positions, the same for all, and by one schedule of steps, the
model says how likely each symbol is; a range coder writes it in that many bits. Reading repeats the same calls of the network
and reads the symbols off, so both sides must find the same probabilities to the last bit: the network runs in float64 on the
CPU on the same batches, and its probabilities are rounded to whole numbers of 2^-16.

A file may hold anything: characters that are none of the model's alphabet are kept apart, by their places.
"""

from __future__ import annotations

import copy
import hashlib
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .denoisers.symbols import Symbols
from .errors import Problem, UsageProblem
from .laws import Categorical
from .processes.masking import Masking
from .rng import Rng
from .samplers.policy import even_policy, step_policy

MAGIC = b"UNZ1"
HEAD = struct.Struct("<4s8s8sIII")  # magic, weights, checksum, symbols, steps, bytes of the exceptions
WINDOWS = 64  # at a time
UNIT = 1 << 16

Code = Callable[[np.ndarray, np.ndarray], np.ndarray]
Heard = Callable[[int], object]


@dataclass(frozen=True)
class Packed:
    """A compressed file: `content`, and of what it is made: symbols, their bits, and the bytes of the exceptions."""

    content: bytes
    symbols: int
    bits: int
    exceptions: int


def compress(model: Any, content: bytes, steps: int | None = None, heard: Heard | None = None) -> Packed:
    """The bytes of any file, smaller where the model finds them likely; `decompress` gives them back.

    model   a `Model` of text that masks symbols in order (ardm), its weights loaded.
    steps   calls of the network for each window; as many as it has symbols, and fewest bits, if left out.
    heard   is told how many windows are done.
    """
    denoiser = _exact(model)
    tokens, exceptions = _tokens(content, model.spec.alphabet)
    policy = _policy(denoiser.process, steps)
    encoder = _coder().queue.RangeEncoder()

    def write(symbols: np.ndarray, counts: np.ndarray) -> np.ndarray:
        encoder.encode(symbols, _categorical(), counts)
        return symbols

    _walk(denoiser, tokens, policy, write, heard)
    body = encoder.get_compressed().astype("<u4").tobytes()
    head = HEAD.pack(MAGIC, _weights(model), _sum(content), len(tokens), len(policy), len(exceptions))
    return Packed(head + exceptions + body, len(tokens), 8 * len(body), len(exceptions))


def decompress(model: Any, packed: bytes, heard: Heard | None = None) -> bytes:
    """What `compress` was given. Raises Problem where these are not its bytes, or were written by another model."""
    if len(packed) < HEAD.size or packed[:4] != MAGIC:
        raise Problem("this is no file that `unnoise compress` wrote")
    _, weights, checksum, count, steps, size = HEAD.unpack_from(packed)
    if weights != _weights(model):
        raise Problem("this file was compressed by other weights; give the run, and the step, that compressed it")
    exceptions, body = packed[HEAD.size : HEAD.size + size], packed[HEAD.size + size :]
    denoiser = _exact(model)
    tokens = torch.zeros(count, dtype=torch.int64)
    try:
        decoder = _coder().queue.RangeDecoder(np.frombuffer(body, "<u4").astype(np.uint32))
        _walk(denoiser, tokens, _policy(denoiser.process, steps), lambda _, p: decoder.decode(_categorical(), p), heard)
        content = _content(tokens, exceptions, model.spec.alphabet)
    except (AssertionError, ValueError, zlib.error, IndexError, UsageProblem) as error:
        raise Problem(f"this file is damaged ({error or 'its bits make no sense'}); compress it again") from None
    if _sum(content) != checksum:
        raise Problem(
            "this file does not come back as it was: it is damaged, or this machine computes otherwise than the one "
            "that compressed it; decompress it there"
        )
    return content


@torch.no_grad()
def _walk(denoiser: Symbols, tokens: Tensor, policy: list[int], code: Code, heard: Heard | None) -> None:
    """Every window through every step; `code(symbols, counts)` says what the symbols of a step are, which are then filled in."""
    process = denoiser.process
    length = process.length
    order = process.ranks(Rng.from_seeds([0]), process.event)
    for first in range(0, len(tokens), WINDOWS * length):
        part = tokens[first : first + WINDOWS * length]
        filled = torch.zeros(-(-len(part) // length) * length, dtype=torch.int64)
        filled[: len(part)] = part
        x = filled.reshape(-1, length)
        there = (torch.arange(len(filled)) < len(part)).reshape(x.shape)
        rank = order.expand(len(x), -1)
        for start, end in pairwise([*policy, length]):
            t = torch.full((len(x),), 1 - start / length, dtype=torch.float64)
            shown = process.coarse(
                x, torch.where(there, process.depth(rank, t), 1)
            )  # what is beyond the end is known to be 0
            guess = denoiser(process.join(shown, rank), t)
            now = there & (rank >= start) & (rank < end)
            counts = _counts(guess)[now].numpy()
            x[now] = torch.from_numpy(code(x[now].numpy().astype(np.int32), counts).astype(np.int64))
        part.copy_(x.flatten()[: len(part)])
        if heard is not None:
            heard(first // length + len(x))


def _counts(guess: Categorical) -> Tensor:
    """Probabilities as whole numbers of 1 or more; float32, which holds them exactly."""
    p = guess.log_probs.double().exp()
    return (p * (UNIT - p.shape[-1])).round().add(1).float()


def _exact(model: Any) -> Symbols:
    """The model's denoiser as both sides must run it. Raises UsageProblem for models that do not mask the symbols of a text."""
    if not isinstance(model.denoiser, Symbols) or model.spec.kind != "text" or model.denoiser.process.stages > 1:
        raise UsageProblem(
            f"only a model that masks the symbols of a text compresses files, as ardm does; this one is {model.recipe.slug} "
            f"on {model.spec.kind}"
        )
    return copy.deepcopy(model.denoiser).cpu().double().eval()


def _policy(process: Masking, steps: int | None) -> list[int]:
    if steps is None or steps == process.length:
        return list(range(process.length))
    if process.order != "random":
        raise UsageProblem("a model from left to right takes a step for each symbol; leave steps out")
    if not 1 <= steps <= process.length:
        raise UsageProblem(f"steps is {steps}, but a window of this model takes from 1 to {process.length}")
    known = bool((process.seen > 0).all())
    return step_policy(process.losses, steps) if known else even_policy(process.length, steps)


def _coder():
    try:
        from constriction import stream  # type: ignore[attr-defined]
    except ImportError as error:
        raise Problem("compression needs the package constriction; run pip install 'unnoise[compression]'") from error
    return stream


def _categorical():
    return _coder().model.Categorical(perfect=False)


def _weights(model: Any) -> bytes:
    source = getattr(model, "source", None) or {}
    return hashlib.sha256(str(source.get("sha256", "")).encode()).digest()[:8]


def _sum(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()[:8]


# Files as symbols


def _tokens(content: bytes, alphabet: tuple[str, ...]) -> tuple[Tensor, bytes]:
    """Symbols, and what they do not say: `b""`, or deflated a sign for the encoding and the strange characters with their gaps."""
    try:
        text, encoding = content.decode("utf-8"), b"u"
    except UnicodeDecodeError:
        text, encoding = content.decode("latin-1"), b"l"
    number = {symbol: i for i, symbol in enumerate(alphabet)}
    tokens, strange, last = [], [], 0
    for place, character in enumerate(text):
        if (token := number.get(character)) is None:
            strange += [place - last, ord(character)]
            last, token = place, number.get(character.lower(), 0)
        tokens.append(token)
    if not strange and encoding == b"u":
        return torch.tensor(tokens, dtype=torch.int64), b""
    return torch.tensor(tokens, dtype=torch.int64), zlib.compress(encoding + b"".join(map(_varint, strange)), 9)


def _content(tokens: Tensor, exceptions: bytes, alphabet: tuple[str, ...]) -> bytes:
    text = [alphabet[i] for i in tokens.tolist()]
    if not exceptions:
        return "".join(text).encode("utf-8")
    plain = zlib.decompress(exceptions)
    numbers, place = _numbers(plain[1:]), 0
    for gap, character in zip(numbers[::2], numbers[1::2], strict=True):
        place += gap
        text[place] = chr(character)
    return "".join(text).encode("utf-8" if plain[:1] == b"u" else "latin-1")


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; the eighth says that more follow."""
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def _numbers(content: bytes) -> list[int]:
    found, value, shift = [], 0, 0
    for byte in content:
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            found.append(value)
            value = shift = 0
    return found
