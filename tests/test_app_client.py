"""The app's endpoints, asked from outside by the client that programs use."""

from __future__ import annotations

import csv
import io
import struct
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from app_server import AppServer
from ovdemo.default_model import EMBEDDED_MODEL
from ovdemo.examples import find_example
from ovdemo.recipes import ExamplePicture, Recipe
from ovdemo.systems.registry import VARIANTS, find_variant

CHINA = find_example("china").path()
WORDS = "sky, tree, person"
NO_KEY = "0" * 32
SETTINGS = (
    *("mode", "fusion", "alpha", "beta", "rescue"),
    *("object_threshold", "overlap_threshold", "presets"),
)
SLOW = {"timeout": 60}  # where other work runs beside
BOUND = 120  # seconds for everything that two clients ask at once


@pytest.fixture
def make_client(app: AppServer, tmp_path: Path) -> Iterator[Callable[[], Client]]:
    clients: list[Client] = []

    def make() -> Client:
        clients.append(
            Client(app.url, verbose=False, download_files=tmp_path, analytics_enabled=False, httpx_kwargs=SLOW)
        )
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def client(make_client: Callable[[], Client]) -> Client:
    return make_client()


def segment(client: Client, picture: Path | None = None, words: str = WORDS, **settings: Any) -> dict[str, Any]:
    document = client.predict(handle_file(str(picture or CHINA)), words, api_name="/segment", **settings)[1]
    assert isinstance(document, dict)
    return document


def refusal(ask: Callable[[], object]) -> str:
    """The sentence that an endpoint answers with."""
    with pytest.raises(AppError) as caught:
        ask()
    text = str(caught.value)
    assert text.endswith((".", "?"))
    assert "\n" not in text
    assert "Something went wrong" not in text
    return text


# --- health and contract ---


def test_health(app: AppServer) -> None:
    assert httpx2.get(f"{app.url}/healthz").json() == {"status": "ok"}
    assert httpx2.get(f"{app.url}/readyz").json() == {"status": "ready"}


def test_the_endpoints_and_their_parameters(client: Client) -> None:
    endpoints = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    names = {
        path: [parameter["parameter_name"] for parameter in endpoint["parameters"]]
        for path, endpoint in endpoints.items()
    }
    assert names == {
        "/segment": ["picture", "words", "model", "short_side", "presets"],
        "/rescore": ["key", "words", *SETTINGS],
        "/inspect": ["key", "words", "x", "y", *SETTINGS],
        "/hierarchy": [
            *("key", "words", "source", "text", "mode", "threshold", "margin"),
            *("inner_means", "fusion", "alpha", "beta", "presets"),
        ],
        "/features": [
            *("key", "source", "layer", "size", "k", "lens", "words", "x", "y"),
            *("median", "foreground", "contrast"),
        ],
        "/export": ["key", "words", *SETTINGS],
        "/models": [],
    }
    required = {
        path: [p["parameter_name"] for p in endpoint["parameters"] if not p["parameter_has_default"]]
        for path, endpoint in endpoints.items()
    }
    assert required == {
        "/segment": ["picture", "words"],
        "/rescore": ["key", "words"],
        "/inspect": ["key", "words", "x", "y"],
        "/hierarchy": ["key", "words"],
        "/features": ["key"],
        "/export": ["key", "words"],
        "/models": [],
    }
    assert all(endpoint["description"] for endpoint in endpoints.values())


def test_the_same_endpoints_are_tools_for_agents(app: AppServer) -> None:
    if not app.has_mcp:
        pytest.skip("the package mcp, which gradio[mcp] brings, is not installed")
    tools = {tool["name"]: tool for tool in httpx2.get(f"{app.url}/gradio_api/mcp/schema").json()}
    assert {"segment", "rescore", "inspect", "hierarchy", "features", "export", "models"} == set(tools)
    arguments = tools["inspect"]["inputSchema"]["properties"]
    assert list(arguments) == ["key", "words", "x", "y", *SETTINGS]
    assert all(argument["description"] for argument in arguments.values())
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "models", "arguments": {}}}
    headers = {"accept": "application/json, text/event-stream"}
    answer = httpx2.post(f"{app.url}/gradio_api/mcp/", json=call, headers=headers, timeout=60)
    assert EMBEDDED_MODEL in answer.text


# --- answers ---


def test_segment_says_what_is_where(client: Client) -> None:
    overlay, document = client.predict(handle_file(str(CHINA)), WORDS, api_name="/segment")
    with Image.open(overlay) as image:
        assert image.size == (document["width"], document["height"]) == (640, 427)
    sky = max(document["segments"], key=lambda one: one["area"])
    assert sky["label"] == "sky"
    assert sky["kind"] == "stuff"
    assert sky["seen"] is True
    assert 0.5 < sky["score"] <= 1
    x, y, width, height = sky["box"]
    assert 0 <= x < x + width <= 640
    assert 0 <= y < y + height <= 427
    assert {one["label"] for one in document["segments"]} <= {"sky", "tree", "person"}
    assert set(document["milliseconds"]) | set(document["cached"]) == {
        *("decode", "encode", "propose", "text", "score", "merge", "draw")
    }


def test_other_words_and_settings_need_no_new_look(client: Client) -> None:
    key = segment(client)["key"]
    document = client.predict(key, "heaven|sky, person", mode="semantic", alpha=0.1, api_name="/rescore")
    assert {"decode", "encode", "propose"} <= set(document["cached"])
    assert "merge" in document["milliseconds"]
    assert document["mode"] == "semantic"
    assert document["key"] == key
    assert "heaven" in {one["label"] for one in document["segments"]}
    raised = client.predict(key, "heaven|sky, person", object_threshold=1.0, api_name="/rescore")
    assert raised["segments"] == []


def test_a_fusion_that_is_left_out_is_the_models_own(client: Client) -> None:
    own = find_variant(EMBEDDED_MODEL).config.fusion
    document = segment(client)
    told = client.predict(
        document["key"], WORDS, alpha=own.alpha, beta=own.beta, rescue=own.rescue, api_name="/rescore"
    )
    assert told["segments"] == document["segments"] != []
    other = client.predict(document["key"], WORDS, rescue=0.0, api_name="/rescore")
    assert [one["score"] for one in other["segments"]] != [one["score"] for one in document["segments"]]


def test_class_lists_are_words_too(client: Client) -> None:
    document = segment(client, words="", presets=["coco-panoptic"])
    alone = client.predict(document["key"], "", presets=["coco-panoptic"], api_name="/rescore")
    assert alone["segments"] == document["segments"] != []
    with pytest.raises(AppError, match="presets"):
        client.predict(document["key"], "sky", presets=["nothing"], api_name="/rescore")


def test_many_new_words_belong_to_segment(client: Client) -> None:
    words = ", ".join(f"strange word {i}" for i in range(101))
    key = segment(client)["key"]
    with pytest.raises(AppError, match="101 of these names are new to this model: call /segment with them"):
        client.predict(key, words, api_name="/rescore")


def test_notes_on_the_words_come_along(client: Client) -> None:
    assert "sky" in " ".join(segment(client, words="sky, tree, sky")["notes"])


def test_inspect_explains_a_pixel(client: Client) -> None:
    key = segment(client)["key"]
    found = client.predict(key, WORDS, 320, 5, api_name="/inspect")
    assert found["segment"]["label"] == "sky" == found["classes"][0]["label"]
    assert [reading["seen"] for reading in found["classes"]] == [True, True, True]
    own = find_variant(EMBEDDED_MODEL).config.fusion
    assert found["classes"][0]["exponent"] == pytest.approx(own.alpha)
    assert found["formula"]["rescue"] == own.rescue
    assert "sky" in found["prompt"]
    formula = found["formula"]
    assert formula["fused"] == pytest.approx(
        formula["mixed"] / formula["total"] * (1 - formula["void"]), rel=1e-4
    )  # FC-CLIP, equation 7, and the part of "no object"
    semantic = client.predict(key, WORDS, 320, 5, mode="semantic", rescue=0.5, api_name="/inspect")
    assert semantic["segment"]["label"] == "sky"
    assert semantic["formula"]["rescue"] == 0.5
    clip_alone = client.predict(key, WORDS, 320, 5, alpha=1.0, api_name="/inspect")
    assert clip_alone["classes"][0]["exponent"] == 1


def fetched(app: AppServer, files: list[str]) -> dict[str, bytes]:
    """The exported files by the end of their names."""
    contents = {}
    for file in files:
        answer = httpx2.get(app.url + file)
        assert answer.status_code == 200, file
        contents[file.rsplit("/", 1)[1].removeprefix("china")] = answer.content
    return contents


def test_export_offers_files_that_can_be_read(app: AppServer, client: Client) -> None:
    document = segment(client)
    files = fetched(app, client.predict(document["key"], WORDS, api_name="/export"))
    assert set(files) == {"_coco.zip", "_overlay.png", "_ids.png", "_cutouts.zip", ".csv", "_recipe.json"}
    assert set(zipfile.ZipFile(io.BytesIO(files["_coco.zip"])).namelist()) == {"china.json", "china.png"}
    ids = np.asarray(Image.open(io.BytesIO(files["_ids.png"])))
    assert ids.shape[:2] == (427, 640)
    rows = list(csv.DictReader(io.StringIO(files[".csv"].decode("utf-8-sig"))))
    assert len(rows) == len(document["segments"])
    recipe = Recipe.from_json(files["_recipe.json"])
    settings = {"mode": "instance", "fusion": "arithmetic", "rescue": 0.25, "presets": ["cityscapes"]}
    files = fetched(app, client.predict(document["key"], WORDS, **settings, api_name="/export"))
    other = Recipe.from_json(files["_recipe.json"])
    assert settings == {
        "mode": other.mode,
        "fusion": other.fusion_kind,
        "rescue": other.rescue,
        "presets": list(other.presets),
    }
    assert recipe.words == WORDS
    assert recipe.model == EMBEDDED_MODEL
    assert recipe.picture == ExamplePicture("china")


def test_the_same_recipe_gives_the_same_bytes(app: AppServer, make_client: Callable[[], Client]) -> None:
    made = []
    for _ in range(2):
        client = make_client()
        key = segment(client)["key"]
        client.predict(key, "sky", api_name="/rescore")  # what was asked between does not matter
        made.append(fetched(app, client.predict(key, WORDS, alpha=0.3, api_name="/export")))
    assert made[0] == made[1]


def test_models_are_listed_with_their_state(client: Client) -> None:
    rows = {row["name"]: row for row in client.predict(api_name="/models")}
    assert list(rows) == list(VARIANTS)
    assert rows[EMBEDDED_MODEL]["state"] == "embedded"
    large = rows["fcclip-convnext-large"]
    assert large["state"] == "to download"
    assert "checkpoints fetch fcclip-convnext-large" in large["remedy"]
    assert large["published"]["pq"] == 26.8
    assert all(row["licence"] and row["megabytes"] > 0 for row in rows.values())


# --- many visitors ---


def test_two_clients_at_once_never_see_each_others_words(make_client: Callable[[], Client], tmp_path: Path) -> None:
    with Image.open(CHINA) as image:
        image.resize((320, 214)).save(tmp_path / "small.png")
    start = threading.Barrier(2, timeout=BOUND)

    def visit(who: str) -> list[set[str]]:
        client = make_client()
        key = segment(client, tmp_path / "small.png", f"{who}|sky, person")["key"]
        start.wait()
        answers = [
            client.submit(key, f"{who} {turn}|sky, person", api_name="/rescore").result(timeout=BOUND)
            for turn in range(20)
        ]
        return [{one["label"] for one in answer["segments"]} - {"person"} for answer in answers]

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(visit, ("left", "right"), timeout=2 * BOUND)
    assert first == [{f"left {turn}"} for turn in range(20)]
    assert second == [{f"right {turn}"} for turn in range(20)]


# --- bad inputs ---


def _png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds nothing."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


def _png(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), "teal").save(buffer, "PNG")
    return buffer.getvalue()


BAD_PICTURES = {
    "text.jpg": (b"This is a letter, not a picture.\n" * 20, "not a picture that can be read"),
    "cut.jpg": (CHINA.read_bytes()[:20_000] if CHINA else b"", "damaged or incomplete"),
    "bomb.png": (_png_header(50_000, 50_000), "megapixels"),
    "dot.png": (_png(1, 1), "at least 16 pixels"),
    "line.png": (_png(1, 4000), "at least 16 pixels"),
    "ribbon.png": (_png(20, 4000), "crop it"),
    "empty.png": (b"", "empty"),
}


@pytest.mark.parametrize("name", BAD_PICTURES)
def test_a_picture_that_cannot_be_used_gets_a_sentence(client: Client, tmp_path: Path, name: str) -> None:
    content, expected = BAD_PICTURES[name]
    (tmp_path / name).write_bytes(content)
    assert expected in refusal(lambda: segment(client, tmp_path / name))
    assert segment(client)["segments"], "the app works on"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", "type at least one class"),
        (" , ;\n", "type at least one class"),
        (", ".join(f"word {i}" for i in range(10_000)), "fewer words"),
        (", ".join(f"word {i}" for i in range(3_000)), "2,000"),
        ("x" * 81, "80"),
        ('cat, "dog', "quot"),
    ],
    ids=["none", "separators", "10,000 classes", "3,000 classes", "a long name", "an open quote"],
)
def test_words_that_cannot_be_used_get_a_sentence(client: Client, words: str, expected: str) -> None:
    key = segment(client)["key"]
    assert expected in refusal(lambda: segment(client, words=words))
    assert expected in refusal(lambda: client.predict(key, words, api_name="/rescore"))
    assert segment(client)["segments"], "the app works on"


def test_settings_that_cannot_be_used_get_a_sentence(client: Client) -> None:
    key = segment(client)["key"]

    def rescore(**settings: Any) -> str:
        return refusal(lambda: client.predict(settings.pop("key", key), WORDS, **settings, api_name="/rescore"))

    assert '"alpha"' in rescore(alpha=2)
    assert '"rescue"' in rescore(rescue=-0.1)
    assert "call /segment again" in rescore(key=NO_KEY)
    assert '"mode"' in rescore(mode="all of it")
    assert "between 64 and 2048" in refusal(lambda: segment(client, short_side=7))
    assert '"fcclip-rn50"' in refusal(lambda: segment(client, model="fcclip-rn5o"))
    assert "lies outside the picture" in refusal(lambda: client.predict(key, WORDS, 640, 0, api_name="/inspect"))
    assert "lies outside the picture" in refusal(lambda: client.predict(key, WORDS, 0, -1, api_name="/inspect"))
    assert "call /segment again" in refusal(lambda: client.predict("../../etc", WORDS, api_name="/export"))
    assert segment(client)["segments"], "the app works on"


def test_a_model_whose_weights_are_not_here_gets_a_sentence(client: Client) -> None:
    assert "checkpoints fetch fcclip-convnext-large" in refusal(lambda: segment(client, model="fcclip-convnext-large"))
    assert "--checkpoint" in refusal(lambda: segment(client, model="fcclip-rn50"))
    assert segment(client)["segments"], "the app works on"


def test_names_of_classes_are_text(app: AppServer, client: Client) -> None:
    markup = "<img src=x onerror=alert(1)>"
    document = segment(client, words=f"{markup}|sky")
    assert document["segments"][0]["label"] == markup
    files = fetched(app, client.predict(document["key"], "=cmd()|sky", api_name="/export"))
    row = next(csv.DictReader(io.StringIO(files[".csv"].decode("utf-8-sig"))))
    assert not row["label"].startswith("=")
    assert Recipe.from_json(files["_recipe.json"]).words == "=cmd()|sky"
