"""What the papers measured for alpha and beta, to set beside what they do to one picture."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedPoint:
    """Panoptic quality, in 0..100, of both kinds of fusion at one pair of ensemble weights."""

    alpha: float
    beta: float
    arithmetic: float
    geometric: float


@dataclass(frozen=True)
class PublishedGrid:
    """One table of a paper.

    Attributes:
        system: whose ensemble it is.
        source: paper and table.
        link: to the paper.
        measured: which number, on which data set. EOV-Seg's table names no measure; its best entry is the paper's PQ
            of EOV-Seg (L).
        points: in the table's order; ``alpha`` weighs the out-of-vocabulary classifier for seen classes, ``beta`` for
            unseen ones.
    """

    system: str
    source: str
    link: str
    measured: str
    points: tuple[PublishedPoint, ...]


FCCLIP_TABLE_8 = PublishedGrid(
    system="FC-CLIP",
    source="Convolutions Die Hard: Open-Vocabulary Segmentation with Single Frozen Convolutional CLIP, Table 8",
    link="https://arxiv.org/abs/2308.02487",
    measured="PQ on ADE20K",
    points=(
        PublishedPoint(0.0, 0.0, 17.8, 17.8),
        PublishedPoint(1.0, 1.0, 21.9, 21.9),
        PublishedPoint(0.0, 1.0, 25.3, 25.3),
        PublishedPoint(1.0, 0.0, 17.5, 17.5),
        PublishedPoint(0.5, 0.5, 25.0, 25.3),
        PublishedPoint(0.5, 0.6, 25.6, 26.4),
        PublishedPoint(0.5, 0.7, 25.5, 26.7),
        PublishedPoint(0.5, 0.8, 25.4, 26.6),
        PublishedPoint(0.4, 0.6, 25.1, 25.6),
        PublishedPoint(0.4, 0.7, 25.6, 26.4),
        PublishedPoint(0.4, 0.8, 25.6, 26.8),
        PublishedPoint(0.4, 0.9, 25.4, 25.8),
    ),
)

EOVSEG_TABLE_10 = PublishedGrid(
    system="EOV-Seg",
    source="EOV-Seg: Efficient Open-Vocabulary Panoptic Segmentation, Table 10",
    link="https://arxiv.org/abs/2412.08628",
    measured="PQ on ADE20K",
    points=(
        PublishedPoint(0.0, 0.0, 15.4, 15.4),
        PublishedPoint(0.2, 0.8, 22.4, 22.7),
        PublishedPoint(0.4, 0.6, 22.8, 23.1),
        PublishedPoint(0.4, 0.8, 23.4, 24.5),
        PublishedPoint(0.5, 0.5, 22.6, 22.8),
        PublishedPoint(0.8, 0.4, 21.8, 21.9),
        PublishedPoint(1.0, 1.0, 20.2, 20.2),
    ),
)

PUBLISHED_GRIDS = (FCCLIP_TABLE_8, EOVSEG_TABLE_10)
