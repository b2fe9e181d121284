"""The variants that can be loaded, as data: system, towers, sources, licences and published numbers."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field

import open_clip

from ovdemo.checkpoints import HubFile
from ovdemo.default_model import EMBEDDED_MODEL
from ovdemo.ensemble import Fusion
from ovdemo.errors import UserError
from ovdemo.images import ResizeRule
from ovdemo.nn.clip import ClipConfig
from ovdemo.nn.mask_decoder import MaskDecoderConfig
from ovdemo.nn.pixel_decoder import PixelDecoderConfig
from ovdemo.systems.fcclip import FCCLIPConfig

CLIP_PREFIX = "backbone.clip_model."


@dataclass(frozen=True)
class Published:
    """What the authors report for ADE20K (zero-shot): panoptic quality, instance AP and semantic mIoU, in percent."""

    pq: float | None = None
    ap: float | None = None
    miou: float | None = None


@dataclass(frozen=True)
class EmbeddedFiles:
    """Files in the project's own folder of checkpoints: all weights, and the text embeddings of all presets."""

    weights: str
    text: str


@dataclass(frozen=True)
class Variant:
    """One set of weights and everything known about it.

    The weights are embedded in the project, or their trained part is on the Hub, or only the authors' page has it.

    Attributes:
        name: what ``--model`` takes.
        title: for people.
        about: what it is, in a sentence without a full stop.
        config: builds the network.
        trained_megabytes: size of the trained part as its file holds it (10^6 bytes): embedded weights in half
            precision, others in float32.
        clip_megabytes: size of the frozen CLIP, likewise, in open_clip's repositories or in the project.
        licence: of code and weights, as far as the authors state it.
        trained: the trained part on the Hub.
        authors_link: page from which a person can download the authors' file.
        embedded: the files that travel with the project.
        training_vocabulary: preset whose names count as seen; embedded weights carry the names themselves.
        published: the authors' numbers.
    """

    name: str
    title: str
    about: str
    config: FCCLIPConfig
    trained_megabytes: float
    clip_megabytes: float
    licence: str
    trained: HubFile | None = None
    authors_link: str | None = None
    embedded: EmbeddedFiles | None = None
    training_vocabulary: str = "coco-panoptic"
    published: Published = field(default_factory=Published)

    @property
    def clip_files(self) -> tuple[HubFile, ...]:
        """Names under which open_clip repositories keep these CLIP weights, safest first; none where embedded."""
        if self.embedded is not None:
            return ()
        clip = self.config.clip
        repository = open_clip.get_pretrained_cfg(clip.name, clip.pretrained)["hf_hub"].strip("/")
        files = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")
        return tuple(HubFile(repository, name) for name in files)


_LICENCE = "code Apache-2.0; no separate licence stated for the weights; CLIP weights MIT"


def _resnet(name: str, drive_id: str, trained: float, clip: float, published: Published) -> Variant:
    return Variant(
        name=f"fcclip-{name.lower()}",
        title=f"FC-CLIP, CLIP ResNet {name.removeprefix('RN')}",
        about="the published system on one of OpenAI's convolutional CLIPs, for comparison of backbones",
        config=FCCLIPConfig(ClipConfig(name, "openai", quick_gelu=True), ensemble_on_valid_mask=True),
        authors_link=f"https://drive.google.com/file/d/{drive_id}/view",
        trained_megabytes=trained,
        clip_megabytes=clip,
        licence=_LICENCE,
        published=published,
    )


# Small enough for two cores and a repository: an 4.8 M parameter ConvNeXt and decoders a third as wide.
EMBEDDED = FCCLIPConfig(
    ClipConfig(
        "ovdemo-convnext-femto",
        "embedded",
        architecture={
            "embed_dim": 256,
            "vision_cfg": {
                "timm_model_name": "convnext_femto",
                "timm_model_pretrained": False,
                "timm_pool": "",
                "timm_proj": "linear",
                "image_size": 256,
            },
            "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 256, "heads": 4, "layers": 4},
        },
    ),
    ensemble_on_valid_mask=False,
    pixel_decoder=PixelDecoderConfig(width=96, mask_width=96, layers=3, heads=4, feedforward=384),
    mask_decoder=MaskDecoderConfig(queries=64, width=96, mask_width=96, layers=6, heads=4, feedforward=384),
    resize_rule=ResizeRule(short_side=256, long_side=512, enlarge=1, least=128, multiple=32),
    # Ahead of either classifier alone at naming single things, at some cost to streets (the card has the figures).
    # FC-CLIP's 0.4 and 0.8 were found for large CLIPs, and a thinly trained head takes much for "no object".
    fusion=Fusion(alpha=0.45, beta=0.85, rescue=0.5),
)

_VARIANTS = (
    Variant(
        name=EMBEDDED_MODEL,
        title="FC-CLIP, embedded (small, ours)",
        about="a small FC-CLIP trained by this project, quick on any machine, rough in its answers",
        config=EMBEDDED,
        trained_megabytes=3.0,
        clip_megabytes=41.7,
        licence="code Apache-2.0; weights trained on research data sets, for research and demonstration",
        embedded=EmbeddedFiles("fcclip-embedded.safetensors", "fcclip-embedded-text.safetensors"),
    ),
    Variant(
        name="fcclip-convnext-large",
        title="FC-CLIP, CLIP ConvNeXt-Large",
        about="the published system at its best, made for a GPU; on a CPU a picture takes many seconds",
        config=FCCLIPConfig(
            ClipConfig("convnext_large_d_320", "laion2b_s29b_b131k_ft_soup"), ensemble_on_valid_mask=False
        ),
        # The revision is to be pinned to a commit once the repository can be seen.
        trained=HubFile("Voxel51/fc-clip", "model.safetensors"),
        authors_link="https://drive.google.com/file/d/1-91PIns86vyNaL3CzMmDD39zKGnPMtvj/view",
        trained_megabytes=82.9,
        clip_megabytes=1410,
        licence=_LICENCE,
        published=Published(26.8, 16.8, 34.1),
    ),
    _resnet("RN50", "1tcB-8FNON-LwckXQbUyKcBA2G7TU65Zh", 84.1, 408, Published(17.9, 9.5, 23.3)),
    _resnet("RN101", "1P0mdgftReWzVbPQ0O0CSBfW3krHhTOj0", 83.6, 479, Published(19.1, 10.2, 24.0)),
    _resnet("RN50x4", "1nUpUsNUE22eOV9skxv9IyIkmCbg5jrIF", 84.7, 713, Published(21.8, None, 26.8)),
    _resnet("RN50x16", "1rJu2UwwtI0VLDl9CyB8Mkgw9qHlnX70W", 85.8, 1164, Published(22.5, None, 29.4)),
    _resnet("RN50x64", "1rvfFVp5p3PZQsHp2NGVEBeYYcqgVVaZX", 88.1, 2493, Published()),
)
VARIANTS: Mapping[str, Variant] = {variant.name: variant for variant in _VARIANTS}


def find_variant(name: str) -> Variant:
    """The variant of that name.

    Raises:
        UserError: there is none; names the nearest.
    """
    if name in VARIANTS:
        return VARIANTS[name]
    near = difflib.get_close_matches(name, VARIANTS, n=1)
    hint = f'did you mean "{near[0]}"?' if near else "the models are " + ", ".join(VARIANTS) + "."
    raise UserError(f'There is no model named "{name}"; {hint}')
