"""The structure that DESIGN asks for: imports point down, and the README tells the truth."""

from __future__ import annotations

import ast
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import metadata_load
from packaging.specifiers import SpecifierSet
from PIL import Image

from app_server import AppServer
from ovdemo.__main__ import _parser
from ovdemo.default_model import DEFAULT_MODEL, chosen_model
from ovdemo.examples import find_example
from ovdemo.systems import registry
from ovdemo.systems.registry import VARIANTS, Variant
from ovdemo.vocabulary import preset_names
from ovdemo.workbench import load

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")

# From the top floor to the ground. A module imports from lower floors only, or from its own folder.
FLOORS = [
    {"__main__"},
    {"commands"},
    {"ui"},
    {"training", "bench"},
    {"evaluation", "__init__", "models", "panels"},
    {"workbench"},
    {"suggestions", "export"},
    {"inspection", "uncertainty", "sensitivity", "hierarchy", "features", "recipes"},
    {"merging", "display"},
    {"rendering", "fusion", "upsampling", "loading"},
    {"systems"},
    {"segmentation", "hub"},
    {"ensemble"},
    {"nn", "vocabulary", "images", "checkpoints", "caching", "stopwatch", "published_grids", "examples", "passes"},
    {"errors", "paths", "default_model"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def imports_of(path: Path) -> set[str]:
    """Rooms of this package that a module imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ovdemo."):
            names.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            names |= {name.name.split(".")[1] for name in node.names if name.name.startswith("ovdemo.")}
    return names


@pytest.mark.parametrize(
    "path", sorted((ROOT / "ovdemo").rglob("*.py")), ids=lambda path: path.relative_to(ROOT).as_posix()
)
def test_imports_point_down(path: Path) -> None:
    room = path.relative_to(ROOT / "ovdemo").parts[0].removesuffix(".py")
    upwards = {name for name in imports_of(path) - {room} if FLOOR[name] <= FLOOR[room]}
    assert not upwards


def test_systems_do_not_import_each_other_and_gradio_stays_in_the_interface() -> None:
    for path in (ROOT / "ovdemo").rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        if "ui" not in path.parts:
            assert not re.search(r"^\s*(import|from) gradio", source, re.MULTILINE), path
    shared = {"__init__", "base", "registry"}
    for path in (ROOT / "ovdemo" / "systems").glob("*.py"):
        others = set(re.findall(r"from ovdemo\.systems\.(\w+) import", path.read_text(encoding="utf-8")))
        assert path.stem == "registry" or others <= shared, path


def test_readme_python_runs(
    tiny: Variant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every Python block in order, with a tiny network of random weights in the place of the published one."""
    import ovdemo

    pixels = np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)

    def load_tiny(name: str = DEFAULT_MODEL) -> object:
        assert chosen_model(name) in VARIANTS
        return load(tiny.name, random_weights=True, device="cpu")

    monkeypatch.setattr(ovdemo, "load", load_tiny, raising=False)
    code = "\n".join(re.findall(r"```python\n(.*?)```", README, re.DOTALL))
    exec(compile(code, "README.md", "exec"), {})
    assert (tmp_path / "out" / "photo_semantic.png").exists()


def test_readme_commands_parse_and_names_exist() -> None:
    commands = re.findall(r"python -m ovdemo ([^\n`]+)", README)
    parsed = [c for c in commands if not c.startswith("checkpoints verify FILE")]
    assert len(parsed) >= 3
    for command in parsed:
        _parser().parse_args(shlex.split(command))
    assert all(f"`{name}`" in README for name in (*VARIANTS, *preset_names()))
    for variant in registry.VARIANTS.values():
        numbers = variant.published
        row = " / ".join("-" if n is None else str(n) for n in (numbers.pq, numbers.ap, numbers.miou))
        assert re.search(
            rf"`{re.escape(variant.name)}` .*{re.escape('not reported' if numbers.pq is None else row)}", README
        )


def test_readme_makes_the_repository_a_space() -> None:
    settings = metadata_load(ROOT / "README.md")
    assert settings is not None
    assert settings["sdk"] == "gradio"
    pins = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert f"gradio[mcp]=={settings['sdk_version']}" in pins
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert settings["python_version"] in SpecifierSet(project["requires-python"])
    assert settings["license"] == project["license"].lower()
    assert (ROOT / settings["app_file"]).is_file()
    assert len(settings["short_description"]) <= 60  # what the Hub takes
    large = VARIANTS["fcclip-convnext-large"]
    assert large.trained is not None
    trained, clip = settings["preload_from_hub"]
    assert trained == f"{large.trained.repo} {large.trained.filename}"
    assert clip in {f"{file.repo} {file.filename}" for file in large.clip_files}
    assert settings["models"] == [large.trained.repo, large.clip_files[0].repo]


def test_readme_begins_with_the_page_and_the_tests() -> None:
    first, second, *_ = re.findall(r"```sh\n(.*?)\n```", README, re.DOTALL)
    assert first.endswith("pip install -r requirements.txt && .venv/bin/python app.py")
    assert second == "bash tests/run"


def test_readme_client_runs(app: AppServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The block for programs, word for word, against the running app."""
    photograph = find_example("china").path()
    assert photograph is not None
    shutil.copy(photograph, tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```py\n(.*?)```", README, re.DOTALL)
    assert 'Client("http://127.0.0.1:7860")' in code
    names: dict[str, Any] = {}
    exec(compile(code.replace("http://127.0.0.1:7860", app.url), "README.md", "exec"), names)
    names["client"].close()
    assert len(names["files"]) == 6
    assert {model["name"] for model in names["models"]} == set(VARIANTS)
    assert names["paths"]["nodes"] > 10_000


def test_app_explains_its_flags() -> None:
    done = subprocess.run(
        [sys.executable, "app.py", "--help"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=300
    )
    for flag in ("--host", "--port", "--share", "--mcp"):
        assert flag in done.stdout
