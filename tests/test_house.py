"""The structure that DESIGN asks for: imports point down, and the README tells the truth."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovdemo.__main__ import _parser
from ovdemo.default_model import DEFAULT_MODEL, chosen_model
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
    {"training"},
    {"evaluation", "bench", "__init__"},
    {"workbench"},
    {"merging", "export"},
    {"rendering", "fusion", "upsampling", "loading"},
    {"systems"},
    {"segmentation", "hub"},
    {"nn", "vocabulary", "images", "checkpoints"},
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


def test_app_says_where_to_start() -> None:
    done = subprocess.run(
        [sys.executable, "app.py"], cwd=ROOT, capture_output=True, text=True, check=True, env={**os.environ}
    )
    command = next(line for line in done.stdout.splitlines() if "ovdemo segment" in line)
    options = _parser().parse_args(shlex.split(command.strip().removeprefix("python -m ovdemo ")))
    assert Path(options.pictures[0]).exists()
