"""COCO's panoptic format: a JSON document and a folder of PNGs of segment ids (cocodataset.org, "format-data")."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ovdemo.errors import UserError
from ovdemo.evaluation.members import FolderMembers, read_json, read_label_map
from ovdemo.evaluation.truth import GroundTruth, LabelledSegment, SegmentMap, truth_of_segments
from ovdemo.images import Picture, load_picture
from ovdemo.vocabulary import Vocabulary, VocabularyClass

Json = dict[str, Any]


class CocoPanopticSet:
    """Panoptic annotations with their pictures (the :class:`~ovdemo.evaluation.truth.LabelledPictures` protocol).

    Where no folder of pictures is given, each picture is looked for beside the document: in its folder, in ``images``,
    and in a folder called as the PNGs' without ``panoptic_`` (``val2017``), here or one folder up, as COCO unpacks.
    """

    def __init__(self, document: Path, masks: Path, pictures: Path | None = None) -> None:
        """Read the document; pictures and PNGs are read when asked for.

        Raises:
            UserError: the document cannot be read or is not of the format, or there is no such folder.
        """
        for folder in (masks, *([pictures] if pictures else [])):
            if not folder.is_dir():
                raise UserError(f"{folder} is not a folder; check the path.")
        self.name = document.stem
        self._masks = FolderMembers(masks)
        beside = (
            document.parent, document.parent / "images", masks.parent / masks.name.removeprefix("panoptic_"),
            document.parent.parent / masks.name.removeprefix("panoptic_"),
        )  # fmt: skip
        self._folders = (pictures,) if pictures else beside
        data = read_json(document)
        try:
            images = {image["id"]: str(image["file_name"]) for image in data["images"]}
            self._rows: list[tuple[str, Json]] = [(images[a["image_id"]], a) for a in data["annotations"]]
            categories = data["categories"]
            self.vocabulary = Vocabulary(
                tuple(VocabularyClass((str(c["name"]),), "thing" if c["isthing"] else "stuff") for c in categories)
            )
            self._index_of_id = {category["id"]: index for index, category in enumerate(categories)}
        except (KeyError, TypeError) as error:
            raise UserError(f"{document.name} is not a COCO panoptic document; check the path.") from error

    def __len__(self) -> int:
        return len(self._rows)

    def load(self, index: int) -> tuple[Picture, GroundTruth]:
        """One picture with its segments.

        Raises:
            UserError: a file cannot be read, or the annotation is not of the format.
        """
        image, annotation = self._rows[index]
        picture = load_picture(self._read_picture(image), image)
        try:
            name = annotation["file_name"]
            ids = read_label_map(self._masks.read(name), (picture.height, picture.width), name)
            segments = tuple(
                LabelledSegment(info["id"], self._index_of_id[info["category_id"]], bool(info.get("iscrowd", 0)))
                for info in annotation["segments_info"]
            )
        except (KeyError, TypeError) as error:
            raise UserError(f"The annotation of {image} is not in COCO's panoptic format; check it.") from error
        return picture, truth_of_segments(SegmentMap(ids, segments))

    def _read_picture(self, name: str) -> bytes:
        # A name is a stranger's: FolderMembers keeps it inside its folder.
        folders = [folder for folder in self._folders if folder.is_dir() and (folder / name).is_file()]
        if not folders:
            raise UserError(f"{name} was not found beside the annotations; say where the pictures are with --images.")
        return FolderMembers(folders[0]).read(name)
