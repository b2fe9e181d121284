"""Words: what a person types, and what a text tower makes of it."""

from ovdemo.vocabulary.classes import Kind, Vocabulary, VocabularyClass
from ovdemo.vocabulary.embedding_cache import EmbeddingCache, EmbeddingSpace
from ovdemo.vocabulary.embeddings import Progress, TextEmbedder, TextEmbeddings, TextEncoder
from ovdemo.vocabulary.folding import combine
from ovdemo.vocabulary.kinds import infer_kind
from ovdemo.vocabulary.overlap import seen_classes
from ovdemo.vocabulary.parsing import format_classes, parse_classes, read_vocabulary_file
from ovdemo.vocabulary.presets import imagenet21k_synsets, load_preset, preset_names, preset_title
from ovdemo.vocabulary.prompts import BARE, VILD_14, TemplateSet
from ovdemo.vocabulary.shipped import ShippedRows, packed

__all__ = [
    "BARE",
    "VILD_14",
    "EmbeddingCache",
    "EmbeddingSpace",
    "Kind",
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
    "load_preset",
    "packed",
    "parse_classes",
    "preset_names",
    "preset_title",
    "read_vocabulary_file",
    "seen_classes",
]
