"""``python -m ovdemo train clip | segmenter``: make the embedded weights from labelled photographs."""

from __future__ import annotations

import argparse
import json
import sys
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from ovdemo.checkpoints import read_tensors, save_safetensors
from ovdemo.commands.progress import progress_bar
from ovdemo.default_model import EMBEDDED_MODEL
from ovdemo.errors import UserError
from ovdemo.loading import load_system, resolve_device
from ovdemo.nn.clip import ClipTower, clip_tower
from ovdemo.paths import cache_dir
from ovdemo.systems.fcclip import FCCLIPNetwork
from ovdemo.systems.registry import CLIP_PREFIX, EMBEDDED, find_variant
from ovdemo.training import alignment, segmenter, text, whitening
from ovdemo.training.alignment import ImageTrainee, open_layers
from ovdemo.training.compose import Composer, maskable
from ovdemo.training.concepts import Concepts
from ovdemo.training.loop import Trainee, train
from ovdemo.training.photos import PhotoStore
from ovdemo.training.phrases import read_phrases
from ovdemo.training.segmenter import SegmenterTrainer
from ovdemo.training.shipping import write_text, write_weights
from ovdemo.training.text import TextTrainee, install_text, text_tensors
from ovdemo.training.whitening import whiten
from ovdemo.training.wording import may_mean_the_same, other_nouns, paraphrase_shifts, word_captions, word_concepts
from ovdemo.training.words import Words
from ovdemo.vocabulary.names import normalise_name
from ovdemo.vocabulary.wordnet import load_wordnet, nouns_file

_SIDE = 256  # pixels of a training scene
_FURTHER = 0.5  # of the learning rates, where training goes on from trained weights
_TEXT, _CLIP = "text.safetensors", "clip.safetensors"


def run_clip(options: argparse.Namespace) -> int:
    """Train the text tower, then the image tower; write ``OUT/clip.safetensors``."""
    concepts = _concepts(options)
    tower = clip_tower(EMBEDDED.clip).to(resolve_device(options.device))
    written = options.out / _TEXT
    if options.start:
        _start_from(options.start, CLIP_PREFIX, tower.clip_model)
    else:
        open_layers(tower)
    if not written.exists():
        if options.text_minutes:
            _train_text(tower, concepts, options)
        save_safetensors(text_tensors(tower), written, {})
    install_text(tower, read_tensors(written))
    store = _photos(options.data, concepts)
    composer = Composer(store, _SIDE)
    trainee = _image_trainee(tower, concepts, store, composer, options)
    _train(trainee, options.out, "image", options.minutes)
    result = trainee.result()
    tower.clip_model.load_state_dict(result, strict=False)
    whiten(tower, partial(composer.object_scene, whitening.SIDE), trainee.names, np.random.default_rng(options.seed))
    tensors = tower.clip_model.state_dict()
    save_safetensors({name: tensors[name].cpu() for name in result}, options.out / _CLIP, {})
    return 0


def _train_text(tower: ClipTower, concepts: Concepts, options: argparse.Namespace) -> None:
    phrases = read_phrases(options.data, nouns_file(), concepts)
    with progress_bar("asking the teacher") as advance:
        student = TextTrainee(
            tower,
            phrases,
            load_wordnet(),
            cache=cache_dir() / "training",
            seed=_drawing_seed(options),
            progress=advance,
            fresh=not options.start,
            peak_rate=text.PEAK_RATE * (_FURTHER if options.start else 1),
        )
    _train(student, options.out, "text", options.text_minutes)


def run_segmenter(options: argparse.Namespace) -> int:
    """Train the decoders on the tower of ``OUT/clip.safetensors``; write the two files that the project ships."""
    concepts = _concepts(options)
    network = FCCLIPNetwork(EMBEDDED).to(resolve_device(options.device))
    if options.start:
        _start_from(options.start, "", network)
    network.backbone.clip_model.load_state_dict(read_tensors(options.out / _CLIP), strict=False)
    store = _photos(options.data, concepts)
    wordings = word_concepts(network.backbone, concepts, load_wordnet(), options.seed)
    trained = maskable(store)
    composer = Composer(store, _SIDE)
    trainer = SegmenterTrainer(
        network,
        Words(wordings.rows, trained, may_mean_the_same(concepts, wordings.rows[:, 0])),
        composer.panoptic_scene,
        partial(composer.object_scene, segmenter.THING_SIDE),
        seed=_drawing_seed(options),
        peak_rate=segmenter.PEAK_RATE * (_FURTHER if options.start else 1),
    )
    _train(trainer, options.out, "segmenter", options.minutes)
    network.load_state_dict(trainer.result(), strict=False)
    # As typed words are kept, so that they count as seen.
    shown = np.flatnonzero(trained).tolist()
    names = list(dict.fromkeys(map(normalise_name, concepts.names(shown) + wordings.names(shown))))
    held_out = [concepts.entries[index].name for index in sorted(concepts.held_out)]
    _ship(network, names, {"held_out": json.dumps(held_out)}, options.out)
    return 0


def _start_from(path: Path, prefix: str, module: torch.nn.Module) -> None:
    """Load what a file of weights holds under a prefix.

    Raises:
        UserError: the file does not hold all of it in these sizes.
    """
    tensors = {name.removeprefix(prefix): x for name, x in read_tensors(path).items() if name.startswith(prefix)}
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise UserError(f"Training cannot go on from {path}: it holds another network's weights.") from error


def _ship(network: FCCLIPNetwork, training_names: list[str], facts: dict[str, str], out: Path) -> None:
    files = find_variant(EMBEDDED_MODEL).embedded
    assert files is not None
    write_weights(network.state_dict(), training_names, facts, out / files.weights)
    system = load_system(EMBEDDED_MODEL, checkpoint=out / files.weights)
    with progress_bar("encoding the presets' names") as advance:
        write_text(system, out / files.text, advance)


def _image_trainee(
    tower: ClipTower, concepts: Concepts, store: PhotoStore, composer: Composer, options: argparse.Namespace
) -> ImageTrainee:
    wordnet = load_wordnet()
    wordings = word_concepts(tower, concepts, wordnet, options.seed).rows
    return ImageTrainee(
        tower,
        composer,
        wordings=wordings,
        shifts=paraphrase_shifts(tower, wordnet, options.seed),
        alike=may_mean_the_same(concepts, wordings[:, 0]),
        nouns=other_nouns(tower, concepts, wordnet, wordings[:, 0]),
        held_out=concepts.held_out,
        captions=word_captions(tower, store),
        seed=_drawing_seed(options),
        peak_rate=alignment.PEAK_RATE * (_FURTHER if options.start else 1),
    )


def _drawing_seed(options: argparse.Namespace) -> int:
    """The seed of all batches: another one for each file that training goes on from. With the same one a later stage
    would see the very pictures of the one before, already known by heart.
    """
    return int(options.seed) + (zlib.crc32(options.start.read_bytes()) if options.start else 0)


def _concepts(options: argparse.Namespace) -> Concepts:
    """The concepts of the data without those held out; also seeds PyTorch and makes the output folder."""
    torch.manual_seed(options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    held_out = options.hold_out.read_text("utf-8").splitlines() if options.hold_out else []
    return Concepts.read(options.data, [name for name in held_out if name])


def _photos(data: Path, concepts: Concepts) -> PhotoStore:
    with progress_bar("decoding photographs") as advance:
        return PhotoStore.open(data, cache_dir() / "training", concepts, progress=advance)


def _train(trainee: Trainee, out: Path, name: str, minutes: float) -> None:
    """Train with a bar in percent that shows the latest losses."""
    with tqdm(total=100, desc=f"training {name}", unit="%", file=sys.stderr, bar_format=_BAR) as bar:

        def report(share: float, losses: dict[str, float]) -> None:
            bar.set_postfix({key: f"{value:.3f}" for key, value in losses.items()}, refresh=False)
            bar.update(round(100 * share, 1) - bar.n)

        train(trainee, out, name, minutes, report)


_BAR = "{desc}: {percentage:5.1f}% |{bar:20}| {elapsed}<{remaining} {postfix}"
