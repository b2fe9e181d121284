"""FC-CLIP agrees with the published code, stage by stage, on every golden case there is."""

from __future__ import annotations

from pathlib import Path

import pytest

from conftest import HERE, PARITY
from parity import Case, difference, stages


def cases(system: str) -> list:
    """The case that lives here, and every one under the parity folder."""
    found = sorted((HERE / "parity_case" / system).glob("case_*.json")) + sorted((PARITY / system).glob("case_*.json"))
    return [pytest.param(path, id=f"{path.parents[1].name}-{path.stem}") for path in found]


@pytest.mark.parametrize("path", cases("fcclip"))
def test_fcclip_agrees_with_the_published_code(path: Path) -> None:
    case = Case.read(path)
    differences, compared = {}, {"num_synonyms", "mask_queries"}
    for name, found in stages(case, case.system(path.parent)):
        if name in case.arrays or name in ("seen", "segments_info"):
            compared.add(name)
            wrong = difference(case, name, found)
            if wrong:
                differences[name] = wrong
    first = next(iter(differences.items()), None)
    assert first is None, f"{path.name}: the first stage that differs is {first[0]}: {first[1]} (all: {differences})"
    assert compared >= case.arrays.keys()


def test_the_parity_folder_was_found() -> None:
    if not PARITY.is_dir():
        pytest.skip(f"no parity folder at {PARITY}: only the case in tests/ was compared")
    assert cases("fcclip")
