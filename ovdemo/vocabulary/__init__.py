"""Words: what a person types, and what a text tower makes of it."""

from ovdemo.vocabulary.classes import Kind, Vocabulary, VocabularyClass
from ovdemo.vocabulary.embedding_cache import EmbeddingCache, EmbeddingSpace
from ovdemo.vocabulary.embeddings import Progress, TextEmbedder, TextEmbeddings, TextEncoder
from ovdemo.vocabulary.folding import combine
from ovdemo.vocabulary.kinds import infer_kind
from ovdemo.vocabulary.linting import Hint, Lint, LintRow, lint, take_hint
from ovdemo.vocabulary.overlap import seen_classes
from ovdemo.vocabulary.parsing import format_classes, parse_classes, read_vocabulary_file, set_kind
from ovdemo.vocabulary.presets import imagenet21k_synsets, load_preset, preset_names, preset_title, read_words
from ovdemo.vocabulary.prompts import BARE, VILD_14, TemplateSet
from ovdemo.vocabulary.shipped import ShippedRows, packed

__all__ = [
    "BARE",
    "VILD_14",
    "EmbeddingCache",
    "EmbeddingSpace",
    "Hint",
    "Kind",
    "Lint",
    "LintRow",
    "Progress",
    "ShippedRows",
    "TemplateSet",
    "TextEmbedder",
    "TextEmbeddings",
    "TextEncoder",
    "Vocabulary",
    "VocabularyClass",
    "combine",
    "format_classes",
    "imagenet21k_synsets",
    "infer_kind",
    "lint",
    "load_preset",
    "packed",
    "parse_classes",
    "preset_names",
    "preset_title",
    "read_vocabulary_file",
    "read_words",
    "seen_classes",
    "set_kind",
    "take_hint",
]
