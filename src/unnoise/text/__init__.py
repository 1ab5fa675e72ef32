"""Text encoders: what a network is told of captions. Numbers of words whose meaning it learns, or vectors of a frozen encoder."""

from .encoder import ABSENT, ENCODERS, TextEncoder, encoder, present
from .words import Words, vocabulary_of, words_of

__all__ = ["ABSENT", "ENCODERS", "TextEncoder", "Words", "encoder", "present", "vocabulary_of", "words_of"]
