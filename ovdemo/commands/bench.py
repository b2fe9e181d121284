"""``python -m ovdemo bench``: print what :mod:`ovdemo.bench` measures."""

from __future__ import annotations

import argparse
import json
import sys

from ovdemo.bench import run_bench


def run(options: argparse.Namespace) -> int:
    """Measure, then print a table or JSON."""
    if options.random_weights:
        print("RANDOM WEIGHTS: timings only.", file=sys.stderr)
    height, width = options.size
    report = run_bench(
        options.model,
        height=height,
        width=width,
        device=options.device,
        precision=options.precision,
        random_weights=options.random_weights,
        checkpoint=options.checkpoint,
        repeats=options.repeats,
        progress=lambda step: print(f"timing {step} ...", file=sys.stderr),
    )
    print(json.dumps(report.to_json(), indent=2) if options.json else report.to_table())
    return 0
