"""Files of weights from anywhere: what is read, how names are matched, and one sentence for each thing gone wrong."""

from __future__ import annotations

import os
import pickle
import stat
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ovdemo.checkpoints import Expected, MatchReport, match, read_tensors, save_safetensors
from sentences import failure

PARITY = Path(os.environ.get("OVDEMO_SHARED", Path(__file__).resolve().parents[2] / "shared")) / "parity" / "fcclip"
TENSORS = {"a.weight": torch.arange(12.0).reshape(3, 4), "a.bias": torch.ones(3), "scale": torch.tensor(2.0)}
IGNORED = ("criterion.*", "pixel_mean", "*.num_batches_tracked")


def assert_same(actual: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    assert actual.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(actual[name], tensor, rtol=0, atol=0)


def expected(
    required: Mapping[str, Tensor], optional: Mapping[str, Tensor] | None = None, ignored: tuple[str, ...] = IGNORED
) -> Expected:
    return Expected(
        {name: tuple(tensor.shape) for name, tensor in required.items()},
        {name: tuple(tensor.shape) for name, tensor in (optional or {}).items()},
        ignored,
    )


class TestReading:
    @pytest.mark.parametrize("name", ["model.safetensors", "model.pth", "no-suffix"])
    def test_safetensors_by_content(self, tmp_path: Path, name: str) -> None:
        save_file(TENSORS, tmp_path / name)
        assert_same(read_tensors(tmp_path / name), TENSORS)

    @pytest.mark.parametrize("zipped", [True, False])
    @pytest.mark.parametrize(
        "content",
        [
            TENSORS,
            OrderedDict(TENSORS),
            {"model": TENSORS, "optimizer": {"state": {0: torch.ones(2)}}, "iteration": 9, "step": torch.tensor(9)},
            {"state_dict": TENSORS, "epoch": 3, "hyper_parameters": {"rate": 0.1}},
            {**TENSORS, "version": 2, "note": "best", "config": None},
        ],
        ids=["plain", "ordered", "model", "state_dict", "others-beside"],
    )
    @pytest.mark.parametrize("name", ["model.pth", "model.safetensors"])
    def test_pickles(self, tmp_path: Path, name: str, content: object, zipped: bool) -> None:
        path = tmp_path / name
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        assert_same(read_tensors(path), TENSORS)

    @pytest.mark.parametrize("content", [{}, {"model": {}}, {"iteration": 3}, [torch.ones(2)], torch.ones(2)])
    def test_no_tensors_by_name(self, tmp_path: Path, content: object) -> None:
        torch.save(content, tmp_path / "empty.pth")
        failure(lambda: read_tensors(tmp_path / "empty.pth"), "empty.pth", "holds no tensors")

    @pytest.mark.filterwarnings("ignore:Validating sparse")
    def test_tensors_without_values_are_no_tensors(self, tmp_path: Path) -> None:
        torch.save({"a": torch.empty(3, device="meta"), "b": torch.eye(2).to_sparse()}, tmp_path / "meta.pth")
        failure(lambda: read_tensors(tmp_path / "meta.pth"), "meta.pth", "holds no tensors")

    @pytest.mark.parametrize("zipped", [True, False])
    def test_code_in_a_pickle_is_not_run(self, tmp_path: Path, zipped: bool) -> None:
        torch.save({"a": Trap(tmp_path)}, tmp_path / "trap.pth", _use_new_zipfile_serialization=zipped)
        failure(lambda: read_tensors(tmp_path / "trap.pth"), "trap.pth", "could run code", "safetensors")
        assert not (tmp_path / "sprung").exists()

    def test_code_in_a_bare_pickle_is_not_run(self, tmp_path: Path) -> None:
        (tmp_path / "trap.pkl").write_bytes(pickle.dumps(Trap(tmp_path), protocol=2))
        failure(lambda: read_tensors(tmp_path / "trap.pkl"), "trap.pkl", "could run code")
        assert not (tmp_path / "sprung").exists()

    @pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
    def test_a_program_is_not_loaded(self, tmp_path: Path) -> None:
        torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(2)), tmp_path / "program.pt")
        failure(lambda: read_tensors(tmp_path / "program.pt"), "program.pt", "could run code")

    @pytest.mark.parametrize(
        ("content", "part"),
        [
            (b"", "is empty"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 9\n", "git-lfs pointer"),
            (b"\n<!DOCTYPE html><html><title>Google Drive - Virus scan warning</title>", "HTML page"),
            (b"<html lang=en>", "HTML page"),
            (b'{"error": "not found"}', "neither"),
            (b"\x00" * 600, "neither"),
        ],
    )
    def test_other_files(self, tmp_path: Path, content: bytes, part: str) -> None:
        path = tmp_path / "model.safetensors"
        path.write_bytes(content)
        failure(lambda: read_tensors(path), str(path), part)

    @pytest.mark.parametrize("form", ["safetensors", "zip", "pickle"])
    def test_cut_anywhere(self, tmp_path: Path, form: str) -> None:
        path = tmp_path / "cut.pth"
        if form == "safetensors":
            save_file(TENSORS, path)
        else:
            torch.save(TENSORS, path, _use_new_zipfile_serialization=form == "zip")
        whole = path.read_bytes()
        # An old pickle still reads as long as only bytes after its last tensor are gone.
        for length in sorted({*range(0, len(whole) - 60, len(whole) // 40), len(whole) - 60}):
            path.write_bytes(whole[:length])
            failure(lambda: read_tensors(path), "cut.pth", "download it again")

    def test_what_cannot_be_opened(self, tmp_path: Path) -> None:
        failure(lambda: read_tensors(tmp_path / "none.pth"), "none.pth", "There is no file")
        failure(lambda: read_tensors(tmp_path), str(tmp_path), "folder")


class Trap:
    """Makes a folder where it is unpickled by something careless."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.folder / "sprung"),)


WORDS = st.sampled_from(["weight", "bias", "norm", "layers", "0", "1", "visual"])
NAMES = st.lists(WORDS, min_size=1, max_size=4).map(".".join)
WRAPPERS = st.lists(st.sampled_from(["module", "model", "net", "_orig_mod"]), max_size=3).map(
    lambda parts: "".join(part + "." for part in parts)
)


class TestMatching:
    @given(st.sets(NAMES, min_size=2, max_size=12), WRAPPERS, st.data())
    def test_any_common_prefix_is_found(self, names: set[str], prefix: str, data: st.DataObject) -> None:
        required = {name: torch.full((2,), float(index)) for index, name in enumerate(sorted(names))}
        optional = {f"clip.{name}": torch.zeros(3) for name in names}
        held = data.draw(st.sets(st.sampled_from(sorted(optional))))
        file = {prefix + name: tensor for name, tensor in (required | {name: optional[name] for name in held}).items()}
        report = match(file, expected(required, optional), "file")
        assert report.prefix == prefix
        assert_same(report.tensors, required | {name: optional[name] for name in held})
        assert set(report.missing_optional) == optional.keys() - held
        assert report.unexpected == ()

    @given(st.sets(NAMES, min_size=2, max_size=8), WRAPPERS, st.data())
    def test_any_missing_tensor_is_named(self, names: set[str], prefix: str, data: st.DataObject) -> None:
        required = {name: torch.zeros(2) for name in names}
        lost = data.draw(st.sampled_from(sorted(names)))
        file = {prefix + name: tensor for name, tensor in required.items() if name != lost}
        parts = (f"holds {len(names) - 1} of the {len(names)} tensors", f"missing: {lost})", "another variant")
        failure(lambda: match(file, expected(required), "x.pth as m"), "x.pth as m ", *parts)

    def test_a_prefix_of_some_names_only_is_not_enough(self) -> None:
        file = {"module.a.weight": TENSORS["a.weight"], "a.bias": TENSORS["a.bias"], "module.scale": TENSORS["scale"]}
        failure(lambda: match(file, expected(TENSORS), "x.pth"), "holds 2 of the 3", "missing: a.bias")

    def test_of_two_complete_sets_the_shorter_prefix_is_taken(self) -> None:
        file = {f"model.{k}": v for k, v in TENSORS.items()} | {f"model_ema.{k}": v + 1 for k, v in TENSORS.items()}
        report = match(file, expected(TENSORS), "x.pth")
        assert_same(report.tensors, TENSORS)
        assert report.prefix == "model."
        assert report.unexpected == tuple(f"model_ema.{name}" for name in TENSORS)

    def test_many_missing_tensors_are_counted(self) -> None:
        required = {f"layer{index}": torch.zeros(1) for index in range(301)}
        file = {f"layer{index}": torch.zeros(1) for index in range(3)}
        parts = ("holds 3 of the 301 tensors", "missing: layer3, layer4, layer5 and 295 more")
        failure(lambda: match(file, expected(required), "x.pth"), *parts)

    def test_shapes_are_exact(self) -> None:
        file = {"a.weight": torch.zeros(4, 3), "scale": torch.zeros(1)}
        shapes = "a.weight is 4x3 instead of 3x4, scale is 1 instead of a scalar"
        action = lambda: match(file, expected(TENSORS), "x.pth as m")  # noqa: E731
        failure(action, "x.pth as m holds 0 of the 3", f"(missing: a.bias; wrong shape: {shapes})")

    def test_optional_shapes_are_exact_too(self) -> None:
        file = TENSORS | {"clip.w": torch.zeros(2)}
        action = lambda: match(file, expected(TENSORS, {"clip.w": torch.zeros(3)}), "x.pth")  # noqa: E731
        failure(action, "holds 3 of the 3", "wrong shape: clip.w is 2 instead of 3")

    def test_unexpected_names_are_reported_but_those_ignored(self, caplog: pytest.LogCaptureFixture) -> None:
        junk = {
            "criterion.empty_weight": torch.ones(2),
            "pixel_mean": torch.ones(3),
            "n.num_batches_tracked": torch.ones(1),
        }
        file = {f"module.{k}": v for k, v in (TENSORS | junk | {"head.new": torch.ones(1)}).items()}
        file |= {"pixel_mean": torch.ones(3), "queue": torch.ones(1)}
        report = match(file, expected(TENSORS), "x.pth")
        assert report.unexpected == ("module.head.new", "queue")
        assert "x.pth holds 2 tensors" in caplog.text

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_floats_become_float32(self, dtype: torch.dtype) -> None:
        file = {name: tensor.to(dtype) for name, tensor in TENSORS.items()} | {"index": torch.arange(3)}
        report = match(file, expected(TENSORS, {"index": torch.zeros(3)}), "x.pth")
        assert_same(report.tensors, TENSORS | {"index": torch.arange(3)})

    def test_parameters_become_plain_tensors(self) -> None:
        report = match({"a": torch.nn.Parameter(torch.ones(2))}, expected({"a": torch.ones(2)}), "x.pth")
        assert not report.tensors["a"].requires_grad

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
    def test_values_must_be_finite(self, value: float, dtype: torch.dtype) -> None:
        broken = TENSORS["a.weight"].to(dtype).clone()
        broken[1, 2] = value
        action = lambda: match(TENSORS | {"a.weight": broken}, expected(TENSORS), "x.pth as m")  # noqa: E731
        failure(action, "x.pth as m is damaged", "in 1 of its tensors (a.weight)", "download it again")

    def test_infinite_values_do_not_matter_in_what_is_ignored(self) -> None:
        file = TENSORS | {"attn_mask": torch.full((2, 2), float("-inf")), "empty": torch.zeros(0)}
        report = match(file, expected(TENSORS, {"empty": torch.zeros(0)}, ("attn_mask",)), "x.pth")
        assert report.unexpected == ()

    def test_a_stranger_s_long_name_neither_slows_the_search_nor_floods_the_log(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        name = "\n." * 1_000_000
        assert match(TENSORS | {name: torch.ones(1)}, expected(TENSORS), "x.pth").unexpected == (name,)
        assert len(caplog.messages[0]) < 400
        assert "\n" not in caplog.messages[0]


def read_keys(name: str) -> dict[str, Tensor]:
    """Tensors without memory, by a list of the shared folder: one name and its sizes a line."""
    path = PARITY / name
    if not path.exists():
        pytest.skip(f"the reference lists are not here: {path}")
    rows = (line.split("\t") for line in path.read_text().splitlines())
    return {name: torch.zeros(()).expand([int(size) for size in sizes.split(",") if size]) for name, sizes in rows}


@pytest.mark.parametrize("variant", ["convnext_large", "rn50"])
@pytest.mark.parametrize("prefix", ["", "module.", "model.module."])
@pytest.mark.parametrize("with_clip", [True, False])
def test_published_files_match(variant: str, prefix: str, with_clip: bool) -> None:
    trained, clip = read_keys(f"keys_{variant}.tsv"), read_keys(f"keys_{variant}_clip.tsv")
    file = {prefix + name: tensor for name, tensor in (trained | (clip if with_clip else {})).items()}
    required = {name: tensor for name, tensor in trained.items() if name != "criterion.empty_weight"}
    report = match(file, expected(required, clip), "fcclip_cocopan.pth")
    assert len(report.tensors) == len(required) + (len(clip) if with_clip else 0)
    assert (report.prefix, report.unexpected) == (prefix, ())
    assert len(report.missing_optional) == (0 if with_clip else len(clip))


class TestSaving:
    def test_round_trip_from_file_to_file(self, tmp_path: Path) -> None:
        torch.save({"model": {f"module.{k}": v.half() for k, v in TENSORS.items()}}, tmp_path / "in.pth")
        report: MatchReport = match(read_tensors(tmp_path / "in.pth"), expected(TENSORS), "in.pth")
        save_safetensors(report.tensors, tmp_path / "out.safetensors", {"variant": "m"})
        assert_same(read_tensors(tmp_path / "out.safetensors"), TENSORS)
        with safe_open(tmp_path / "out.safetensors", "pt") as file:
            assert file.metadata() == {"variant": "m"}

    def test_views_and_parameters_are_saved_and_an_old_file_is_replaced(self, tmp_path: Path) -> None:
        path = tmp_path / "out.safetensors"
        path.write_bytes(b"old")
        weight = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
        save_safetensors({"w": weight.T}, path, {})
        assert_same(read_tensors(path), {"w": weight.detach().T})
        assert [file.name for file in tmp_path.iterdir()] == ["out.safetensors"]

    @pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
    def test_others_may_read_it_as_any_new_file(self, tmp_path: Path) -> None:
        (tmp_path / "any").touch()
        save_safetensors(TENSORS, tmp_path / "out.safetensors", {})
        modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("any", "out.safetensors")}
        assert len(modes) == 1

    def test_a_full_disk_leaves_the_old_file(self, tmp_path: Path) -> None:
        resource = pytest.importorskip("resource")
        path = tmp_path / "out.safetensors"
        path.write_bytes(b"old")
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 19, hard))  # the system's own refusal, halfway
        try:
            failure(lambda: save_safetensors({"a": torch.zeros(1 << 18)}, path, {}), str(path), "does not fit", "free ")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert path.read_bytes() == b"old"
        assert [file.name for file in tmp_path.iterdir()] == ["out.safetensors"]

    def test_no_folder(self, tmp_path: Path) -> None:
        path = tmp_path / "none" / "out.safetensors"
        failure(lambda: save_safetensors(TENSORS, path, {}), str(path), "no folder", "make it first")

    def test_a_folder_in_its_place(self, tmp_path: Path) -> None:
        path = tmp_path / "out.safetensors"
        path.mkdir()
        failure(lambda: save_safetensors(TENSORS, path, {}), str(path), "cannot be written")
        assert list(tmp_path.iterdir()) == [path]
