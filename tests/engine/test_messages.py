"""What goes wrong outside the lab is told in its own words, with the remedy."""

import pytest

from engine import environment
from engine.cli import main
from engine.errors import LabError, ModelError
from engine.sampling import models
from engine.study.source import find_model


@pytest.fixture
def no_cache_of_the_driver():
    environment._cuda.cache_clear()
    yield
    environment._cuda.cache_clear()


@pytest.fixture(
    params=[
        ("2.13.0+cpu", {}, "is CPU-only; install a CUDA build"),
        ("2.13.0+cu130", {"CUDA_VISIBLE_DEVICES": "-1"}, "hides all GPUs; unset it"),
        ("2.13.0+cu130", {"CUDA_VISIBLE_DEVICES": ""}, "hides all GPUs; unset it"),
        ("2.13.0+cu130", {}, "there is no NVIDIA driver"),
    ],
    ids=["build", "hidden", "empty", "driver"],
)
def without_cuda(request, monkeypatch, no_cache_of_the_driver):
    """A machine without a usable GPU; returns why."""
    version, variables, why = request.param
    monkeypatch.setattr(environment, "_version", lambda package: version)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(environment.ctypes, "CDLL", missing)
    return why


def test_a_device_that_is_not_usable_is_refused_with_the_reason(without_cuda):
    with pytest.raises(LabError) as caught:
        environment.resolve_device("cuda")
    assert without_cuda in str(caught.value)
    assert "Use --device cpu." in str(caught.value)
    assert environment.resolve_device("auto") == "cpu"


def test_doctor_says_why_there_is_no_gpu(without_cuda, capsys):
    main(["doctor"])
    [line] = [line for line in capsys.readouterr().out.splitlines() if "not cuda" in line]
    assert without_cuda in line


@pytest.mark.parametrize("name", ["figures.csv", "study.toml", "empty.duckdb"])
def test_a_file_that_is_no_cache_is_not_imported_and_the_message_says_what_is(name, tmp_path, capsys):
    (tmp_path / name).write_text("" if "empty" in name else "name = 1\n" * 9)
    assert main(["import", str(tmp_path / name), "--cache", str(tmp_path / "c.duckdb")]) == 2
    told = capsys.readouterr().err
    assert "is not a DuckDB file; `import` takes a cache: a .duckdb file" in told
    assert "--cache" not in told
    assert not (tmp_path / "c.duckdb").exists()


def test_a_folder_is_not_imported_and_the_message_says_what_is(tmp_path, capsys):
    assert main(["import", str(tmp_path), "--cache", str(tmp_path / "c.duckdb")]) == 2
    assert "is a folder; `import` takes a cache: a .duckdb file" in capsys.readouterr().err


class TransportError(Exception):
    """Of the HTTP client, by its name."""


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (TransportError("[Errno -2]"), "the hub cannot be reached"),
        (ConnectionError("no"), "the hub cannot be reached"),
        (type("RepositoryNotFoundError", (OSError,), {})("404"), "the hub has no such public model"),
        (type("GatedRepoError", (OSError,), {})("403"), "accept its terms"),
        (type("OfflineModeIsEnabled", (ConnectionError,), {})("off"), "HF_HUB_OFFLINE is set"),
        (ValueError("odd.\nmore"), "OSError: pass 'local_files_only=False'"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_model_that_cannot_be_fetched_is_told_without_the_words_of_the_library(error, words, monkeypatch):
    def download(*args, **options):
        raise OSError("pass 'local_files_only=False' as input. See the stacktrace above.\nMore") from error

    monkeypatch.setattr(models.DiffusionPipeline, "download", download)
    with pytest.raises(ModelError) as caught:
        models.fetch(find_model("owner/nowhere"))
    assert words in str(caught.value)
    assert "Run `hf download owner/nowhere` with network access" in str(caught.value)
    if not isinstance(error, ValueError):
        assert "stacktrace" not in str(caught.value)
        assert "local_files_only" not in str(caught.value)
