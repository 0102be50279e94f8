"""Pictures that studies start from: kept in the cache once, shared with it, and found when their files are gone."""

import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from diffusers.utils import load_image
from PIL import Image

from engine.cache.connection import reading, writing
from engine.cache.exchange import export_cache, import_cache
from engine.cache.input_pictures import inputs, inputs_of, kept_in, refuse_large
from engine.cache.integrity import check, repair
from engine.cache.queries import spec
from engine.cli import main
from engine.errors import CacheRefused, StudyError
from engine.passes.run import run_study
from engine.sampling.calls import opened
from engine.sharing.study_file import study_toml
from engine.study.study import load_study, parse_study
from tests.engine import family_miniatures as families
from tests.engine.helpers import ask, write_study


@pytest.fixture
def file(sd_folder: Path, tmp_path: Path) -> Path:
    """A study file of one cell that starts from photo.png beside it."""
    families.picture().save(tmp_path / "photo.png")
    return written(tmp_path / "first.toml", sd_folder)


def written(path: Path, model: Path, image: Any = "photo.png", **more: Any) -> Path:
    pipeline = {"class": "StableDiffusionImg2ImgPipeline", "image": image, "strength": 0.7}
    settings = {"timing": {"repeats": 0}, "frames": {"count": 0}, "dtype": "float32", "seeds": [0], **more}
    plain = {"name": path.stem, "model": str(model), "prompts": ["owl"], "lanes": ["ddim:3"], "pipeline": pipeline}
    return write_study(path, **plain | settings)


def test_a_picture_is_kept_once_and_runs_the_study_when_its_file_is_gone(
    file: Path, sd_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = file.parent / "c.duckdb"
    data = (file.parent / "photo.png").read_bytes()
    digest = sha256(data).hexdigest()
    for study in (file, written(file.parent / "second.toml", sd_folder)):
        assert main(["run", str(study), "--cache", str(cache), "--device", "cpu"]) == 0
    assert ask(cache, "SELECT sha256, image FROM input_pictures") == [(digest, data)]
    (file.parent / "photo.png").unlink()
    more = ["--cache", str(cache), "--device", "cpu", "--set", "seeds=[0, 1]"]
    capsys.readouterr()
    assert main(["run", str(file), *more]) == 0
    assert (
        "photo.png cannot be read: No such file or directory; the copy in the cache is used." in capsys.readouterr().err
    )
    assert ask(cache, "SELECT status, count(*) FROM trajectories GROUP BY ALL") == [("done", 2)]
    assert main(["verify", str(file), *more]) == 0
    assert main(["report", str(file), "--cache", str(cache), "-o", str(file.parent / "report.md")]) == 0
    other = written(file.parent / "third.toml", sd_folder)
    assert main(["plan", str(other), "--cache", str(cache)]) == 2
    assert "and the cache keeps no picture under that name for this study" in capsys.readouterr().err


def test_a_colleague_runs_an_imported_study_from_the_settings_that_came_with_it(file: Path, tmp_path: Path) -> None:
    cache, sent, theirs = (tmp_path / f"{name}.duckdb" for name in ("c", "sent", "theirs"))
    run_study(load_study(file), cache, device="cpu")
    digest = load_study(file).pipeline.pictures["image"].digest
    export_cache(cache, sent, "first")
    import_cache(sent, theirs)
    desk = tmp_path / "desk"
    desk.mkdir()
    with reading(theirs) as db:
        stored = spec(db, "first") or {}
        assert inputs_of(stored) == {"image": ("photo.png", digest)}
        assert inputs(db, [digest]) == {digest: (file.parent / "photo.png").read_bytes()}
    (desk / "study.toml").write_text(study_toml(stored))
    study = load_study(desk / "study.toml", ["seeds=[0, 1]"], kept_in(theirs))
    assert run_study(study, theirs, device="cpu").done == 1
    families.picture().rotate(90).save(desk / "photo.png")  # another picture under the same name is not the study's
    assert load_study(desk / "study.toml", kept=kept_in(theirs)).pipeline.pictures["image"].digest == digest
    for kept, told in ((None, "is another picture, and"), (kept_in(tmp_path / "none.duckdb"), digest)):
        with pytest.raises(StudyError, match=told):
            load_study(desk / "study.toml", kept=kept)


def test_a_study_is_exported_with_its_own_pictures_only(file: Path, sd_folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "c.duckdb"
    run_study(load_study(file), cache, device="cpu")
    families.picture().rotate(180).save(tmp_path / "other.png")
    run_study(load_study(written(tmp_path / "second.toml", sd_folder, "other.png")), cache, device="cpu")
    export_cache(cache, tmp_path / "one.duckdb", "second")
    digest = sha256((tmp_path / "other.png").read_bytes()).hexdigest()
    assert ask(cache, "SELECT count(*) FROM input_pictures") == [(2,)]
    assert ask(tmp_path / "one.duckdb", "SELECT sha256 FROM input_pictures") == [(digest,)]


def test_a_picture_that_is_not_what_its_digest_names_is_refused_and_repaired(file: Path, tmp_path: Path) -> None:
    cache = tmp_path / "c.duckdb"
    study = load_study(file)
    run_study(study, cache, device="cpu")
    with writing(cache) as db:
        db.execute("UPDATE input_pictures SET image = 'forged'::BLOB")
    with pytest.raises(CacheRefused, match=r"its input picture \w+ is another one"):
        import_cache(cache, tmp_path / "theirs.duckdb")
    assert kept_in(cache)("first", "photo.png", study.pipeline.pictures["image"].digest) is None
    faults = check(cache, lambda *_: True)
    assert [fault.what for fault in faults] == ["input pictures that are not what their digest names"]
    repair(cache, faults)
    assert not check(cache, lambda *_: True)


@pytest.mark.parametrize(
    ("content", "told"), [(b"no picture", "is no picture that can be read"), (b"", "is no picture that can be read")]
)
def test_a_file_that_is_no_picture_is_refused_before_any_work(content: bytes, told: str, file: Path) -> None:
    (file.parent / "photo.png").write_bytes(content)
    with pytest.raises(StudyError, match=told):
        load_study(file)


def test_a_picture_too_large_for_a_cache_is_refused_with_its_size(file: Path) -> None:
    Image.new("1", (8192, 4096)).save(file.parent / "photo.png")
    study = load_study(file)
    with pytest.raises(StudyError, match=r"8192 x 4096 pixels .* at most 16,777,216 pixels"):
        refuse_large(study.pipeline.pictures)
    with pytest.raises(StudyError, match="Make it smaller"):
        run_study(study, file.parent / "c.duckdb", device="cpu")
    assert not (file.parent / "c.duckdb").exists()


def test_pictures_are_turned_upright_as_diffusers_loads_them(file: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter, as phones store them
    families.picture().resize((64, 48)).save(tmp_path / "photo.jpg", exif=exif)
    plain = {"name": "s", "prompts": ["owl"], "lanes": ["ddim:3"], "pipeline": {"image": "photo.jpg"}}
    picture = parse_study(plain, folder=tmp_path).pipeline.pictures["image"]
    expected = load_image(str(tmp_path / "photo.jpg"))
    assert expected.size == (48, 64)
    assert opened(picture, "RGB").tobytes() == expected.tobytes()


def test_a_file_that_changes_after_the_study_was_read_changes_nothing(file: Path, tmp_path: Path) -> None:
    study = load_study(file)
    before = (tmp_path / "photo.png").read_bytes()
    shutil.copy(file, tmp_path / "photo.png")
    run_study(study, tmp_path / "c.duckdb", device="cpu")
    assert ask(tmp_path / "c.duckdb", "SELECT image FROM input_pictures") == [(before,)]
