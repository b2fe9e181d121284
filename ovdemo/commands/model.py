"""The model that a command's flags name."""

from __future__ import annotations

import argparse

from ovdemo.commands.progress import download_bar
from ovdemo.ensemble import Fusion
from ovdemo.workbench import Workbench, load


def load_workbench(options: argparse.Namespace) -> Workbench:
    """Load it, with a bar on standard error while its weights are downloaded.

    Raises:
        UserError: unknown name, device or precision; weights that cannot be had or do not fit.
    """
    with download_bar() as progress:
        return load(
            options.model,
            checkpoint=options.checkpoint,
            device=options.device,
            precision=options.precision,
            random_weights=options.random_weights,
            seed=options.seed,
            progress=progress,
        )


def chosen_fusion(options: argparse.Namespace, workbench: Workbench) -> Fusion:
    """The ensemble that a command's flags ask for; what they leave out is the model's own."""
    return workbench.system.fusion.but(
        kind=options.fusion, alpha=options.alpha, beta=options.beta, rescue=options.rescue
    )
