"""Models by hub id, from a real hub cache on disk and without a network."""

import json
import os
import shutil
import subprocess
import sys
from hashlib import sha256

import pytest
from huggingface_hub import constants

from engine.cli import main
from engine.errors import ModelError
from engine.passes.run import run_study
from engine.sampling.models import fetch
from engine.study.source import find_model
from tests.engine.helpers import ROOT, ask, parsed, write_model, write_study
from tests.engine.miniatures import write_sd

COMMIT = "1" * 40
OTHER = "2" * 40

RUN_BY_ID = """
import json, sys
from engine.cli import main
from engine.sampling.models import load
from engine.study.source import find_model

source = find_model("owner/tiny")
model = load(source, "cpu", "float32")
print(json.dumps([source.kind, source.revision, source.fingerprint, type(model.pipe).__name__, model.parameters]))
sys.exit(main(["run", sys.argv[1], "--cache", sys.argv[2], "--device", "cpu", "--progress", "json"]))
"""


def lay_out(hub, folder, commit=COMMIT, ref="main"):
    """Puts a pipeline folder into a hub cache: files as blobs by digest, and a snapshot of links."""
    repo = hub / "models--owner--tiny"
    for part in ("refs", "blobs", "snapshots"):
        (repo / part).mkdir(parents=True, exist_ok=True)
    (repo / "refs" / ref).write_text(commit)
    for file in sorted(file for file in folder.rglob("*") if file.is_file()):
        digest = sha256(file.read_bytes()).hexdigest()
        # The hub names large files by their SHA-256 and small ones by their git digest, 40 digits.
        blob = repo / "blobs" / (digest if file.suffix == ".safetensors" else digest[:40])
        shutil.copyfile(file, blob)
        link = repo / "snapshots" / commit / file.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return repo / "snapshots" / commit


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty hub cache, and no network."""
    folder = tmp_path / "home" / "hub"
    folder.mkdir(parents=True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return folder


def test_a_hub_id_runs_from_the_local_hub_cache_without_network(tmp_path):
    folder = write_sd(tmp_path / "tiny")
    lay_out(tmp_path / "home" / "hub", folder)
    study = write_study(tmp_path / "a.toml", model="owner/tiny", prompts=["red apple"], lanes=["ddim:2", "euler:2"])
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGINGFACE"))}
    done = subprocess.run(
        [sys.executable, "-c", RUN_BY_ID, str(study), str(tmp_path / "c.duckdb")],
        cwd=ROOT,
        text=True,
        check=False,
        timeout=300,
        capture_output=True,
        env=environment | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")},
    )
    assert done.returncode == 0, done.stderr
    first, *_, last = done.stdout.splitlines()
    kind, revision, fingerprint, pipeline, parameters = json.loads(first)
    assert (kind, revision, pipeline) == ("hub", COMMIT, "StableDiffusionPipeline")
    assert fingerprint == find_model(str(folder)).fingerprint, "the same files by hub id and by folder are one model"
    assert json.loads(last)["done"] == 2
    stored = ask(tmp_path / "c.duckdb", "SELECT source, revision, fingerprint, family, parameters FROM models")
    assert stored == [("owner/tiny", COMMIT, fingerprint, pipeline, parameters)]


def test_a_revision_is_found_by_branch_and_by_commit(hub, tmp_path):
    lay_out(hub, write_model(tmp_path / "a"))
    lay_out(hub, write_model(tmp_path / "b", other=1), OTHER, "beta")
    main_one, beta = find_model("owner/tiny"), find_model("owner/tiny@beta")
    assert (main_one.revision, beta.revision) == (COMMIT, OTHER)
    assert main_one.fingerprint != beta.fingerprint
    assert find_model(f"owner/tiny@{COMMIT}").fingerprint == main_one.fingerprint
    assert find_model(f"owner/tiny@{OTHER}").fingerprint == beta.fingerprint
    assert find_model("owner/tiny@gamma").fingerprint is None


def test_links_of_the_hub_and_plain_files_have_one_fingerprint(hub, tmp_path):
    folder = write_model(tmp_path / "a")
    lay_out(hub, folder)
    assert find_model("owner/tiny").fingerprint == find_model(str(folder)).fingerprint


@pytest.mark.parametrize("name", ["owner/tiny", "owner/tiny@beta"])
def test_with_neither_network_nor_cache_the_error_names_the_remedy(hub, tmp_path, name, capsys):
    assert find_model(name).fingerprint is None
    with pytest.raises(ModelError, match="is not in the local cache and could not be downloaded") as caught:
        run_study(parsed(model=name), tmp_path / "c.duckdb", device="cpu")
    assert "`hf download owner/tiny" in str(caught.value)
    study = str(write_study(tmp_path / "a.toml", model=name))
    assert main(["run", study, "--cache", str(tmp_path / "c.duckdb")]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert main(["plan", study, "--cache", str(tmp_path / "c.duckdb")]) == 0
    assert "is not on this machine" in capsys.readouterr().out
    assert main(["models", name]) == 0
    assert "hf download owner/tiny" in capsys.readouterr().out
    assert not (tmp_path / "c.duckdb").exists()


@pytest.mark.parametrize("lost", ["unet", "vae/diffusion_pytorch_model.safetensors"])
def test_a_download_that_was_interrupted_counts_as_not_fetched(hub, tmp_path, lost):
    snapshot = lay_out(hub, write_model(tmp_path / "a"))
    if (snapshot / lost).is_dir():
        shutil.rmtree(snapshot / lost)
    else:
        (snapshot / lost).unlink()
    source = find_model("owner/tiny")
    assert source.fingerprint is None
    with pytest.raises(ModelError, match="hf download owner/tiny"):
        fetch(source)


def test_a_damaged_blob_of_the_hub_cache_is_refused(hub, tmp_path):
    snapshot = lay_out(hub, write_model(tmp_path / "a"))
    blob = (snapshot / "unet" / "diffusion_pytorch_model.safetensors").resolve()
    blob.write_bytes(blob.read_bytes()[:-2])
    with pytest.raises(ModelError, match="damaged"):
        find_model("owner/tiny")
