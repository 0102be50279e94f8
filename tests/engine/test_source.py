"""Models on disk: what is found, what is refused before any work, and what changes a fingerprint."""

import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from engine.cli import main
from engine.errors import LabError, ModelError
from engine.passes.run import run_study
from engine.study.families import FAMILIES
from engine.study.source import find_model
from tests.engine.helpers import parsed, write_model, write_study

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(tmp_path):
    return write_model(tmp_path / "model")


def fingerprint(folder: Path) -> str:
    found = find_model(str(folder)).fingerprint
    assert found is not None
    return found


def change(file: Path, place: int, by: int = 1) -> None:
    content = bytearray(file.read_bytes())
    content[place] = (content[place] + by) % 256
    file.write_bytes(content)


def test_a_folder_tells_what_it_is_without_being_loaded(folder):
    source = find_model(str(folder))
    assert (source.kind, source.pipeline, source.size) == ("folder", "StableDiffusionPipeline", (64, 64))
    assert source.scheduler_config["_class_name"] == "DDIMScheduler"
    assert source.bytes == 2 * (folder / WEIGHTS).stat().st_size
    assert len(source.model_id) == 16


def test_any_byte_of_any_weight_changes_the_fingerprint(folder):
    before = fingerprint(folder)
    weights = sorted(folder.glob("*/*.safetensors"))
    assert len(weights) == 2
    for file in weights:
        start = 8 + int.from_bytes(file.read_bytes()[:8], "little")
        for place in range(start, file.stat().st_size):
            change(file, place)
            assert fingerprint(folder) != before, f"{file.name}, byte {place}"
            change(file, place, -1)
    assert fingerprint(folder) == before


@pytest.mark.parametrize(
    "name", ["model_index.json", "unet/config.json", "vae/config.json", "scheduler/scheduler_config.json"]
)
def test_every_configuration_changes_the_fingerprint(folder, name):
    before = fingerprint(folder)
    config = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(config | {"_another": 1}))
    assert fingerprint(folder) != before


def test_swapped_weights_change_the_fingerprint(folder):
    change(folder / WEIGHTS, -1)
    before = fingerprint(folder)
    unet, vae = folder / WEIGHTS, folder / WEIGHTS.replace("unet", "vae")
    unet_bytes, vae_bytes = unet.read_bytes(), vae.read_bytes()
    unet.write_bytes(vae_bytes)
    vae.write_bytes(unet_bytes)
    assert fingerprint(folder) != before


def test_files_that_are_not_loaded_and_the_place_on_disk_leave_the_fingerprint(folder, tmp_path):
    before = fingerprint(folder)
    (folder / "README.md").write_text("hello")
    (folder / "picture.png").write_bytes(b"png")
    (folder / "unet" / "README.md").write_text("hello")
    (folder / "safety_checker").mkdir()
    (folder / "safety_checker" / "config.json").write_text("{}")
    shutil.copytree(folder, tmp_path / "elsewhere")
    assert fingerprint(folder) == before
    assert fingerprint(tmp_path / "elsewhere") == before


def test_the_order_in_which_files_were_written_leaves_the_fingerprint(folder, tmp_path):
    before = fingerprint(folder)
    copy = tmp_path / "copy"
    for file in sorted((file for file in folder.rglob("*") if file.is_file()), reverse=True):
        target = copy / file.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())
    assert fingerprint(copy) == before


def test_the_fp16_variant_is_read_only_where_there_is_no_other(folder):
    before = fingerprint(folder)
    half = folder / WEIGHTS.replace(".safetensors", ".fp16.safetensors")
    half.write_bytes((folder / WEIGHTS).read_bytes())
    change(half, -1)
    assert fingerprint(folder) == before
    (folder / WEIGHTS).unlink()
    assert fingerprint(folder) != before


def _pickled_only(folder):
    (folder / WEIGHTS).unlink()
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps({"weight": 1}))


def _index(**changes):
    def breaks(folder):
        path = folder / "model_index.json"
        index = {key: value for key, value in json.loads(path.read_text()).items() if key not in changes}
        path.write_text(json.dumps(index | {key: value for key, value in changes.items() if value is not None}))

    return breaks


def _header(header):
    content = json.dumps(header).encode()
    return lambda folder: (folder / WEIGHTS).write_bytes(len(content).to_bytes(8, "little") + content)


def _bytes(content):
    return lambda folder: (folder / WEIGHTS).write_bytes(content)


@pytest.mark.parametrize(
    ("breaks", "words"),
    [
        (shutil.rmtree, "No model"),
        (lambda folder: (folder / "model_index.json").unlink(), "has no model_index.json"),
        (lambda folder: (folder / "model_index.json").write_text("{"), "cannot be read"),
        (lambda folder: (folder / "model_index.json").write_text("[]"), "has no model_index.json"),
        (lambda folder: (folder / "model_index.json").write_bytes(b"\xff\xfe"), "cannot be read"),
        (lambda folder: (folder / "unet" / "config.json").write_text("{"), "cannot be read"),
        (lambda folder: _bytes((folder / WEIGHTS).read_bytes()[:-1])(folder), "damaged: .* bytes instead of"),
        (lambda folder: _bytes((folder / WEIGHTS).read_bytes() + b"x")(folder), "damaged: .* bytes instead of"),
        (lambda folder: _bytes((folder / WEIGHTS).read_bytes()[:20])(folder), "damaged"),
        (_bytes(b""), "damaged"),
        (_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n"), "damaged"),
        (_bytes(bytes(range(256)) * 8), "damaged"),
        (_bytes(b"\xff" * 64), "damaged"),
        (_header([]), "damaged"),
        (_header({"weight": 3}), "damaged"),
        (_header({"weight": {"data_offsets": [0]}}), "damaged"),
        (_header({"weight": {"data_offsets": "ab"}}), "damaged"),
        (_pickled_only, "only pickled weights .*only safetensors files "),
        (lambda folder: (folder / WEIGHTS).unlink(), "has no weights"),
        (lambda folder: shutil.rmtree(folder / "vae"), "folder 'vae' named in model_index.json is missing"),
        (_index(unet=None), r"has no denoiser \(unet or"),
        (_index(unet=[None, None]), r"has no denoiser \(unet or"),
        (_index(unet=[]), r"has no denoiser \(unet or"),
    ],
)
def test_a_broken_folder_is_refused_before_any_work(folder, tmp_path, breaks, words):
    breaks(folder)
    cache = tmp_path / "c.duckdb"
    with pytest.raises(ModelError, match=words):
        run_study(parsed(model=str(folder)), cache, device="cpu")
    assert not cache.exists()


def test_pickled_weights_are_never_opened(folder, tmp_path):
    class Attack:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "attacked",))

    (folder / WEIGHTS).unlink()
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Attack()))
    with pytest.raises(ModelError, match="pickled"):
        run_study(parsed(model=str(folder)), tmp_path / "c.duckdb", device="cpu")
    assert not (tmp_path / "attacked").exists()


def test_a_shard_that_is_missing_is_refused_before_any_work(folder, tmp_path):
    shard = "diffusion_pytorch_model-0000{}-of-00002.safetensors"
    (folder / WEIGHTS).rename(folder / "unet" / shard.format(1))
    index = {"metadata": {}, "weight_map": {"a": shard.format(1), "b": shard.format(2)}}
    (folder / (WEIGHTS + ".index.json")).write_text(json.dumps(index))
    with pytest.raises(ModelError, match="00002-of-00002"):
        find_model(str(folder))


def test_a_folder_that_is_found_but_does_not_load_leaves_no_cache(folder, tmp_path):
    with pytest.raises(ModelError, match="does not load"):
        run_study(parsed(model=str(folder)), tmp_path / "c.duckdb", device="cpu")
    assert not (tmp_path / "c.duckdb").exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gausian", "Did you mean 'gaussian'"),
        ("bundeld", "Did you mean 'bundled'"),
        ("no/such/folder", "No model"),
        ("", "model_index.json"),
        ("x" * 5000, "No model"),
        ("~no_such_user_here/model", "No model"),
        ("owner/name@", "No model"),
        ("-owner/name", "No model"),
        ("a..b/c", "No model"),
    ],
)
def test_an_unknown_name_is_refused(name, words):
    with pytest.raises(ModelError, match=words):
        find_model(name)


def test_a_file_is_no_model(tmp_path):
    for name, told in (("model.ckpt", "not a diffusers pipeline folder"), ("model.safetensors", "is damaged")):
        (tmp_path / name).write_bytes(b"x")
        with pytest.raises(ModelError, match=told):
            find_model(str(tmp_path / name))


def test_a_bad_model_ends_with_exit_code_2(folder, tmp_path, capsys):
    _pickled_only(folder)
    study = write_study(tmp_path / "a.toml", model=str(folder))
    assert main(["run", str(study), "--cache", str(tmp_path / "c.duckdb")]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert "save_pretrained()" in captured.err
    assert main(["models", str(folder)]) == 2


def test_the_wrong_solver_for_a_model_is_refused_before_any_work(tmp_path):
    folder = write_model(tmp_path / "flow")
    (folder / "scheduler" / "scheduler_config.json").write_text('{"_class_name": "FlowMatchEulerDiscreteScheduler"}')
    with pytest.raises(LabError, match=r"Lane 'ddim:4': the model predicts flow"):
        run_study(parsed(model=str(folder)), tmp_path / "c.duckdb", device="cpu")
    assert not (tmp_path / "c.duckdb").exists()


def test_without_a_size_of_its_own_a_model_needs_width_and_height(folder, tmp_path):
    (folder / "unet" / "config.json").write_text("{}")
    with pytest.raises(LabError, match="give no picture size; set width and height"):
        run_study(parsed(model=str(folder)), tmp_path / "c.duckdb", device="cpu")


def test_the_gaussian_model_is_known_by_its_version_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    before = find_model("gaussian").fingerprint
    assert before == "913ac79ba8d8d30b526792da289e614280720148610eb3537a17af7f02fd0d34"
    monkeypatch.setitem(FAMILIES, "gaussian", replace(FAMILIES["gaussian"], version=2))
    assert find_model("gaussian").fingerprint != before
