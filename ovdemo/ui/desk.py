"""What the handlers of all tabs share: from what a page holds to an analysis, without a setting kept in the process."""

from __future__ import annotations

import functools
import inspect
import logging
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

import gradio as gr
import torch

from ovdemo.errors import UserError
from ovdemo.examples import EXAMPLES, find_example
from ovdemo.inspection import Case
from ovdemo.models import Models
from ovdemo.panels import FeatureDesk
from ovdemo.recipes import ExamplePicture, OwnPicture, Recipe
from ovdemo.stopwatch import Stopwatch
from ovdemo.ui.visits import Shot, Visits
from ovdemo.vocabulary import Vocabulary
from ovdemo.workbench import Analysis

P = ParamSpec("P")
R = TypeVar("R")

log = logging.getLogger(__name__)

_MAX_KEYS = 1000
_QUICK_NAMES = 100  # that may be encoded in passing; the embedded model takes a second for them
_NO_MEMORY = "The GPU ran out of memory; use fewer words or a smaller short side, or try again in a moment."
_WRONG = "Something went wrong here that should not have; it has been logged. Try again, or with other settings."


class Desk:
    """The models and the questions that every tab asks. Holds no visitor's words or settings."""

    def __init__(self, models: Models) -> None:
        self.models = models
        self.features = FeatureDesk(
            models.get,
            ready=lambda name: models.state(name).ready,
            device=models.device,
            accelerate=models.accelerate,
        )
        self._lock = threading.Lock()
        self.visits = Visits()
        self._keys: OrderedDict[str, Shot] = OrderedDict()

    def open(self, path: str | Path, model: str, short_side: int | None, stopwatch: Stopwatch) -> tuple[Shot, Analysis]:
        """Analyse a picture with a model.

        Raises:
            UserError: the picture, the model or the short side cannot be used, or the model is not on this machine:
                downloading gigabytes is asked for, never a side effect.
        """
        if self.models.loaded(model) is None and not (state := self.models.state(model)).ready:
            raise UserError(f"The model {model} is not on this machine yet: download it first, or run {state.remedy}.")
        workbench = self.models.get(model)
        analysis = workbench.analyse(path, short_side=short_side, stopwatch=stopwatch)
        digest = analysis.picture.digest
        picture = _example_at(path) or OwnPicture(digest, analysis.picture.name)
        return Shot(workbench.name, workbench.weights, picture, digest, short_side, str(path)), analysis

    def reopen(self, shot: Shot | None, stopwatch: Stopwatch | None = None) -> Analysis:
        """The analysis of a picture that a page has segmented, made again where it was forgotten meanwhile.

        Raises:
            UserError: there is none, the upload was cleaned away, or the model cannot be had any more.
        """
        if shot is None:
            raise UserError("Choose a picture and press Segment first.")
        workbench = self.models.get(shot.model)
        known = workbench.recall(shot.digest, shot.short_side)
        if known is not None:
            return known.named(shot.picture.name) if isinstance(shot.picture, OwnPicture) else known
        path: str | Path = shot.path
        if isinstance(shot.picture, ExamplePicture):
            path = find_example(shot.picture.example).path() or path
        if not Path(path).is_file():
            raise UserError("This picture was cleaned away after a while; upload it again and press Segment.")
        return workbench.analyse(path, short_side=shot.short_side, stopwatch=stopwatch)

    def check_quick(self, analysis: Analysis, vocabulary: Vocabulary, remedy: str) -> None:
        """Refuse to encode many words in the middle of a live answer.

        Raises:
            UserError: more than a hundred names are new; ``remedy`` says what to press.
        """
        count = analysis.workbench.names_to_encode(vocabulary)
        if count > _QUICK_NAMES:
            raise UserError(f"{count:,} of these names are new to this model: {remedy}, which shows how far it is.")

    def answer(self, analysis: Analysis, recipe: Recipe, stopwatch: Stopwatch | None = None) -> Case:
        """What a recipe's words and settings get for an analysed picture.

        Raises:
            UserError: the words cannot be used.
        """
        return analysis.answer(recipe.vocabulary, fusion=recipe.fusion, merging=recipe.merging, stopwatch=stopwatch)

    def key(self, shot: Shot) -> str:
        """A name for a segmented picture that only who segmented it can ask about later; the oldest are forgotten."""
        name = secrets.token_hex(16)
        with self._lock:
            self._keys[name] = shot
            while len(self._keys) > _MAX_KEYS:
                self._keys.popitem(last=False)
        return name

    def find(self, key: str) -> Shot:
        """The picture that :meth:`key` named.

        Raises:
            UserError: it is unknown, or forgotten.
        """
        with self._lock:
            shot = self._keys.get(key)
        if shot is None:
            raise UserError("This key is unknown or was forgotten after a while; call /segment again.")
        return shot

    def remember(self, session: str | None, shot: Shot) -> None:
        """Note which picture a page shows, and free the one that it showed before; :meth:`close` frees the last."""
        before = self.visits.show(session, shot)
        if before is not None and before.digest != shot.digest:
            self._free(before)

    def close(self, session: str | None) -> None:
        """Free the picture of a page that was closed, unless another page shows it; examples stay for the next."""
        shot = self.visits.close(session)
        if shot is not None:
            self._free(shot)

    def _free(self, shot: Shot) -> None:
        if isinstance(shot.picture, ExamplePicture) or self.visits.is_shown(shot.digest):
            return
        self.features.forget(shot.digest)
        self.models.forget(shot.digest)


def _example_at(path: str | Path) -> ExamplePicture | None:
    """The example whose photograph a page uploaded from the gallery: Gradio keeps its file name, not its folder."""
    name = Path(path).name
    found = next((e for e in EXAMPLES if (own := e.path()) and own.name == name and _same(own, Path(path))), None)
    return None if found is None else ExamplePicture(found.name)


def _same(one: Path, other: Path) -> bool:
    return one == other or (one.stat().st_size == other.stat().st_size and one.read_bytes() == other.read_bytes())


def sentences(handler: Callable[P, R]) -> Callable[P, R]:
    """Turn what a handler raises into one sentence on the page; tracebacks go to the log."""
    if inspect.isgeneratorfunction(handler):

        @functools.wraps(handler)
        def steps(*args: P.args, **kwargs: P.kwargs) -> Any:
            with _explained(handler):
                yield from cast(Iterator[Any], handler(*args, **kwargs))

        return cast(Callable[P, R], steps)

    @functools.wraps(handler)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        with _explained(handler):
            return handler(*args, **kwargs)

    return guarded


def quietly(handler: Callable[P, Any]) -> Callable[P, Any]:
    """For what follows every keystroke: where the input is not usable yet, the page stays as it is."""

    @functools.wraps(handler)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> Any:
        try:
            return sentences(handler)(*args, **kwargs)
        except gr.Error as error:
            if isinstance(error.__cause__, UserError):
                return gr.skip()
            raise

    return guarded


@contextmanager
def _explained(handler: Callable[..., Any]) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        # The page would read markup in it; what a person typed is text.
        raise gr.Error(escape(str(error), quote=False), duration=12, print_exception=False) from error
    except torch.OutOfMemoryError as error:
        torch.cuda.empty_cache()
        raise gr.Error(_NO_MEMORY, duration=12, print_exception=False) from error
    except (gr.Error, GeneratorExit):
        raise
    except Exception as error:
        log.exception("%s failed", getattr(handler, "__name__", handler))
        raise gr.Error(_WRONG, duration=12, print_exception=False) from error
