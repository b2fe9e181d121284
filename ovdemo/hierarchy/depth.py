"""One depth of the tree for a whole picture: what every segment is called there, and in which colour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ovdemo.hierarchy.colors import refined_colors
from ovdemo.hierarchy.paths import Stopping, TreePath
from ovdemo.rendering import Color


@dataclass(frozen=True)
class ShownNode:
    """What a segment shows at a depth: a node, its label, its probability in 0..1 and its colour."""

    node: int
    label: str
    probability: float
    color: Color


def depth_view(paths: Sequence[TreePath], depth: int, stopping: Stopping | None = None) -> tuple[ShownNode, ...]:
    """What every path shows at a depth, in the order of the paths.

    The number of distinct nodes never falls as the depth grows, and a node has one colour at every depth and with
    every ``stopping``: colours follow from the whole paths.

    Args:
        paths: of one tree.
        depth: from 0, the root; deeper than a path is its end.
        stopping: where given, no path goes on where it is not sure.
    """
    if not paths:
        return ()
    tree = paths[0].tree
    colors = refined_colors(tree, (path.steps[-1].node for path in paths))
    steps = (path.at(depth, stopping) for path in paths)
    return tuple(ShownNode(s.node, tree.nodes[s.node].label, s.probability, colors[s.node]) for s in steps)
