"""From probabilities of nodes to answers: a path a segment, how much of it is sure, and a label at every depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ovdemo.hierarchy.scoring import TreeMode, TreeScores
from ovdemo.hierarchy.tree import CategoryTree
from ovdemo.segmentation import Segment

_TINY = float(np.finfo(np.float32).tiny)  # keeps a share finite where a probability vanishes


@dataclass(frozen=True)
class Stopping:
    """When a path is no longer sure.

    Attributes:
        threshold: in 0..1. Roll-up: a node's probability must reach it. Greedy descent, as the paper's stops: the
            probability among the siblings must.
        margin: in 0..1, by which a node's probability among its siblings must exceed the runner-up's.
    """

    threshold: float = 0.5
    margin: float = 0.0


@dataclass(frozen=True)
class Step:
    """A node of a path.

    Attributes:
        node: index into the tree's nodes.
        probability: of the node, in 0..1; never more than the step's before it.
        share: of the parent's probability, in 0..1: the probability among its siblings. 1 at the root.
        margin: share less that of the runner-up, which in roll-up may be the parent's own class; the share without one.
    """

    node: int
    probability: float
    share: float
    margin: float


@dataclass(frozen=True)
class TreePath:
    """What a segment is, from the root to the most specific answer, each step the most probable below the one before.

    It ends at a leaf, or where a node's own class is more probable than each of its children.
    """

    tree: CategoryTree
    mode: TreeMode
    steps: tuple[Step, ...]

    def sure(self, stopping: Stopping) -> int:
        """Index of the last step before the first that is not sure; the root, which has no alternative, is at least."""
        for index, step in enumerate(self.steps[1:]):
            certainty = step.probability if self.mode == "roll-up" else step.share
            if certainty < stopping.threshold or step.margin < stopping.margin:
                return index
        return len(self.steps) - 1

    def at(self, depth: int, stopping: Stopping | None = None) -> Step:
        """The step at a depth, or the last that is sure (the last at all, without ``stopping``) where that is above.

        What is shown at a depth follows from what is shown one deeper, so labels never get fewer as depth grows.
        """
        last = len(self.steps) - 1 if stopping is None else self.sure(stopping)
        return self.steps[min(depth, last)]


def trace(scores: TreeScores) -> tuple[TreePath, ...]:
    """The path of every row."""
    probability, own = scores.probability.cpu().numpy(), scores.own.cpu().numpy()
    rows = zip(probability, own, strict=True)
    return tuple(TreePath(scores.tree, scores.mode, _steps(scores.tree, *row)) for row in rows)


def path_record(path: TreePath, stopping: Stopping) -> dict[str, object]:
    """A path as JSON can hold it: the settings, the answer, and every level with what WordNet says of it."""
    sure = path.sure(stopping)
    levels = [
        {
            "depth": depth,
            "label": node.label,
            "names": list(node.names),
            "synset": node.synset,
            "gloss": node.gloss,
            "stands_for": list(node.stands_for),
            "probability": step.probability,
            "share": step.share,
            "margin": step.margin,
            "sure": depth <= sure,
        }
        for depth, step in enumerate(path.steps)
        for node in (path.tree.nodes[step.node],)
    ]
    return {
        "mode": path.mode,
        "threshold": stopping.threshold,
        "margin": stopping.margin,
        "answer": levels[sure]["label"],
        "levels": levels,
    }


def tree_document(
    tree: CategoryTree, segments: Sequence[Segment], paths: Sequence[TreePath], stopping: Stopping
) -> dict[str, object]:
    """A picture's paths as JSON can hold them: the size of the tree, its notes, and each segment's path.

    Args:
        tree: of the paths.
        segments: of the picture.
        paths: one a segment, in their order.
        stopping: where paths are no longer sure.
    """
    pairs = zip(segments, paths, strict=True)
    return {
        "nodes": len(tree),
        "notes": list(tree.notes),
        "segments": [{"id": s.id, "label": s.label, "path": path_record(path, stopping)} for s, path in pairs],
    }


def _steps(tree: CategoryTree, probability: np.ndarray, own: np.ndarray) -> tuple[Step, ...]:
    steps = [Step(0, min(float(probability[0]), 1.0), 1.0, 1.0)]
    while children := tree.nodes[steps[-1].node].children:
        above = steps[-1].node
        rivals = probability[children.start : children.stop]
        best = int(rivals.argmax())
        if own[above] > rivals[best]:
            break
        second = float(np.delete(rivals, best).max(initial=own[above]))
        whole = max(float(probability[above]), _TINY)
        chosen = min(float(rivals[best]), steps[-1].probability)
        steps.append(Step(children[best], chosen, min(chosen / whole, 1.0), (chosen - second) / whole))
    return tuple(steps)
