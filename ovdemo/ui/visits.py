"""What each open page shows, so that an answer that was overtaken meanwhile does not appear on it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from ovdemo.recipes import ExamplePicture, OwnPicture, Recipe

_MAX_VISITS = 1000  # whose closing nobody told; each is a few hundred bytes


@dataclass(frozen=True)
class Shot:
    """A picture that a page has segmented: what ``gr.State`` holds of it. Pictures and tensors stay in caches.

    Attributes:
        model: name of the variant.
        weights: revision of its weights.
        picture: for a recipe.
        digest: of the picture.
        short_side: of the network's input that was asked for; None is the system's own.
        path: where the upload lies until it is cleaned away.
    """

    model: str
    weights: str | None
    picture: ExamplePicture | OwnPicture
    digest: str
    short_side: int | None
    path: str

    def recipe(self, **settings: Any) -> Recipe:
        """The recipe of the picture, with the words and settings that a :class:`~ovdemo.recipes.Recipe` has beside it.

        Raises:
            UserError: a value is out of its range.
        """
        return Recipe(
            model=self.model, weights=self.weights, picture=self.picture, short_side=self.short_side, **settings
        )


@dataclass
class _Visit:
    shot: Shot
    asked: int = 0
    answered: int = 0


class Visits:
    """Open pages by their session. Events of one page run side by side, so their answers may come in any order."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._visits: OrderedDict[str, _Visit] = OrderedDict()

    def show(self, session: str | None, shot: Shot) -> Shot | None:
        """Note what a page shows from now on, whatever it asked before; returns what it showed until now."""
        if session is None:
            return None
        with self._lock:
            before = self._visits.pop(session, None)
            asked = before.asked if before else 0
            self._visits[session] = _Visit(shot, asked, asked)
            while len(self._visits) > _MAX_VISITS:
                self._visits.popitem(last=False)
        return None if before is None else before.shot

    def close(self, session: str | None) -> Shot | None:
        """Forget a page; returns what it showed."""
        with self._lock:
            visit = self._visits.pop(session or "", None)
        return None if visit is None else visit.shot

    def is_shown(self, digest: str) -> bool:
        """Whether any page shows a picture."""
        with self._lock:
            return any(visit.shot.digest == digest for visit in self._visits.values())

    def shows(self, session: str | None, shot: Shot | None) -> bool:
        """Whether a page shows this and nothing newer; unknown pages are trusted."""
        with self._lock:
            visit = self._visits.get(session or "")
            return visit is None or visit.shot == shot

    def ask(self, session: str | None) -> int:
        """Number a question that a page asks about what it shows."""
        with self._lock:
            visit = self._visits.get(session or "")
            if visit is None:
                return 0
            visit.asked += 1
            return visit.asked

    def may_answer(self, session: str | None, shot: Shot, question: int) -> bool:
        """Whether the page still shows the shot and no later question was answered; if so, this one counts as it."""
        with self._lock:
            visit = self._visits.get(session or "")
            if visit is None:
                return True
            if visit.shot != shot or question <= visit.answered:
                return False
            visit.answered = question
            return True
