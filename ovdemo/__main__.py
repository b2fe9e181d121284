"""Command line: ``python -m ovdemo segment | bench | evaluate | train | checkpoints``."""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from ovdemo.default_model import DEFAULT_MODEL, chosen_model
from ovdemo.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0 when all went well, 1 when some pictures failed, 2 when the command could not run.
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    options = _parser().parse_args(arguments)
    # Imported only now: `--help` and a mistyped flag must not wait for PyTorch.
    module, function = options.command.split(".")
    try:
        run = getattr(importlib.import_module(f"ovdemo.commands.{module}"), function)
        return int(run(options))
    except UserError as error:
        print(f"ovdemo: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("ovdemo: stopped.", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ovdemo", description="Open-vocabulary panoptic segmentation.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_segment(commands.add_parser("segment", help="cut pictures into segments labelled with your words"))
    _add_bench(commands.add_parser("bench", help="time every step on this machine"))
    _add_evaluate(commands.add_parser("evaluate", help="measure a model on labelled pictures"))
    _add_train(commands.add_parser("train", help="make the embedded model's weights from labelled photographs"))
    _add_checkpoints(commands.add_parser("checkpoints", help="list, fetch, verify and convert weights"))
    return parser


def _add_segment(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command="segment.run")
    parser.add_argument("pictures", nargs="+", metavar="PICTURE")
    words = parser.add_argument_group("words (any of these; they combine)")
    words.add_argument("--classes", metavar="WORDS", help='e.g. "cat|kitten, sofa, wall:stuff"')
    words.add_argument("--preset", action="append", default=[], metavar="NAME", help="e.g. coco-panoptic; repeatable")
    words.add_argument("--vocabulary-file", type=Path, metavar="FILE", help="a text file in the syntax of --classes")
    _add_model(parser)
    parser.add_argument("--mode", choices=("panoptic", "semantic", "instance"), default="panoptic")
    _add_fusion(parser)
    parser.add_argument(
        "--object-threshold", type=_share, default=0.0, help="least score of a segment, 0..1 (default 0)"
    )
    parser.add_argument(
        "--overlap-threshold", type=_share, default=0.8, help="least share of its mask a segment must win (default 0.8)"
    )
    parser.add_argument("--out", type=Path, default=Path("out"), metavar="DIR", help="where results go (default: out)")
    parser.add_argument("--cutouts", action="store_true", help="also write one transparent PNG a segment")
    parser.add_argument("--json", action="store_true", help="print the results as JSON on standard output")


def _add_bench(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command="bench.run")
    _add_model(parser)
    parser.add_argument(
        "--size", type=_size, default=(640, 853), metavar="HxW", help="of the picture (default 640x853)"
    )
    parser.add_argument("--repeats", type=_count, default=10, help="runs of each heavy step (default 10)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command="evaluate.run")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", type=Path, metavar="DIR", help="a folder of data sets, each with an index.jsonl")
    source.add_argument("--coco-panoptic", nargs=2, metavar=("JSON", "PNGDIR"), help="COCO panoptic annotations")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME", help="of --data; repeatable (default: all with the split)"
    )
    parser.add_argument("--split", default="val", help="of --data (default val)")
    parser.add_argument(
        "--words", metavar="WORDS", help="of --data: instead of a set's own classes; gives the IoU of segments so named"
    )
    parser.add_argument("--images", type=Path, metavar="DIR", help="pictures of --coco-panoptic (default: beside it)")
    _add_model(parser)
    _add_fusion(parser)
    parser.add_argument("--limit", type=_count, metavar="N", help="pictures a set, spread evenly (default: all)")
    parser.add_argument(
        "--out", type=Path, default=Path("out"), metavar="DIR", help="where evaluation.json goes (default: out)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def _add_train(parser: argparse.ArgumentParser) -> None:
    parts = parser.add_subparsers(title="parts", required=True, metavar="PART")
    clip = parts.add_parser("clip", help="the text tower, then the image tower")
    clip.set_defaults(command="train.run_clip")
    clip.add_argument(
        "--text-minutes", type=float, default=10, help="for the text tower alone; 0 leaves it as it is (default 10)"
    )
    segmenter = parts.add_parser("segmenter", help="the decoders, on the frozen tower of OUT/clip.safetensors")
    segmenter.set_defaults(command="train.run_segmenter")
    for part in (clip, segmenter):
        part.add_argument("--data", type=Path, required=True, metavar="DIR", help="a folder of data sets")
        part.add_argument("--out", type=Path, required=True, metavar="DIR", help="where weights and curves go")
        part.add_argument("--minutes", type=float, default=60, help="of training in all; runs go on (default 60)")
        part.add_argument("--hold-out", type=Path, metavar="FILE", help="concepts never to be named, one a line")
        part.add_argument(
            "--start", type=Path, metavar="FILE", help="weights to go on from, as OUT or the project has them"
        )
        part.add_argument("--device", default="auto", help="auto, cpu or cuda (default auto)")
        part.add_argument("--seed", type=int, default=0)


def _add_fusion(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--fusion", choices=("geometric", "arithmetic", "in-vocabulary", "out-of-vocabulary"))
    parser.add_argument("--alpha", type=_share, help="weight of CLIP for seen classes, 0..1 (default: the model's)")
    parser.add_argument("--beta", type=_share, help="weight for unseen classes, 0..1 (default: the model's)")
    parser.add_argument(
        "--rescue", type=_share, help="how far CLIP's confidence lowers 'no object', 0..1 (default: the model's)"
    )
    parser.add_argument("--short-side", type=int, metavar="PIXELS", help="of the network input (default: the model's)")


def _add_model(parser: argparse.ArgumentParser) -> None:
    # argparse passes a default through its type, too: commands always get the name of a model.
    parser.add_argument(
        "--model",
        type=chosen_model,
        default=DEFAULT_MODEL,
        metavar="NAME",
        help="see `checkpoints list` (default auto: what OVDEMO_MODEL names, else the embedded one)",
    )
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="local weights instead of the Hub's")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default auto)")
    parser.add_argument("--precision", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument(
        "--random-weights",
        action="store_true",
        help="seeded random weights: for tests and timing, results mean nothing",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the random weights (default 0)")


def _add_checkpoints(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="every model: what it is, where its weights are, whether they are here")
    listing.set_defaults(command="checkpoints.run_list")
    listing.add_argument("--json", action="store_true")
    fetching = actions.add_parser("fetch", help="download a model's weights")
    fetching.set_defaults(command="checkpoints.run_fetch")
    fetching.add_argument("name", metavar="NAME")
    verifying = actions.add_parser("verify", help="check that a file holds a model's weights")
    verifying.set_defaults(command="checkpoints.run_verify")
    converting = actions.add_parser("convert", help="rewrite a file as safetensors with the official names")
    converting.set_defaults(command="checkpoints.run_convert")
    for action in (verifying, converting):
        action.add_argument("file", type=Path, metavar="FILE")
        action.add_argument("--as", dest="name", required=True, metavar="NAME", help="the model it should be")
    converting.add_argument("--to", type=Path, required=True, metavar="OUT.safetensors")


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} does not lie between 0 and 1")
    return value


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.lower().partition("x")
    try:
        size = int(height), int(width)
    except ValueError:
        raise argparse.ArgumentTypeError(f'"{text}" is not HEIGHTxWIDTH, for example 640x853') from None
    if not all(16 <= side <= 8192 for side in size):
        raise argparse.ArgumentTypeError("both sides must lie between 16 and 8192 pixels")
    return size


if __name__ == "__main__":
    sys.exit(main())
