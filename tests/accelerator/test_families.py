"""Model families on a pretend accelerator: their pipelines mix no devices there, and the engine hardly waits."""

from pathlib import Path
from typing import Any

import pytest

from engine.sampling.image_pass import sample_cells
from engine.sampling.models import Model
from engine.sampling.standins import family, model_config
from engine.study.cells import Cell
from engine.study.families import kind_of
from engine.study.frame_settings import FrameSettings
from engine.study.lanes import fitting, parse_lane
from engine.study.source import find_model
from tests.accelerator.pretend import Accelerator
from tests.accelerator.test_image_pass import checked
from tests.engine import family_miniatures as miniatures
from tests.engine.miniatures import PIXELS

# As where the families are compared with plain diffusers.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`FluxPosEmbed` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:In CPU autocast:UserWarning"),
]
QUICK = ("sd3", "flux")
# AuraFlow and HunyuanDiT read a number below torch's dispatcher, which the pretend accelerator cannot answer.
TRIED = ("sd3", "flux", "schnell", "pixart", "sana", "lumina2", "chroma", "hidream", "z_image", "qwen_image")
EVERY = [pytest.param(key, marks=() if key in QUICK else pytest.mark.long) for key in TRIED]
STEPS = 8
# Once a model: learning which axes hold the rows, whether latents are unpacked, and decoding.
SETTLING = 20


@pytest.mark.parametrize("key", EVERY)
def test_a_family_runs_on_cuda_and_the_engine_hardly_waits(key: str, cuda: Accelerator, tmp_path: Path) -> None:
    pipe: Any = miniatures.built(key)
    pipe.to("cuda")
    settings = miniatures.pipeline_settings(key, tmp_path)
    solver = next(e.key for e in fitting(kind_of(model_config(pipe)), family(pipe)) if not e.stochastic)
    cells = [
        Cell(parse_lane(f"{solver}:{STEPS}"), "red apple", seed, "", 4.0, PIXELS, PIXELS, "float32", key, "c", settings)
        for seed in (0, 1)
    ]
    model = Model(find_model("gaussian"), pipe, "cuda")
    cuda.waits.clear()
    samples = checked(list(sample_cells(model, cells, FrameSettings(count=1, kinds=("x0",)), 2)))
    calls = sum(sample.nfe for sample in samples)
    assert all(sample.pictures for sample in samples)
    assert cuda.own_waits() <= 0.6 * calls + SETTLING, {
        site: n for site, n in cuda.waits.items() if "engine" in site[1]
    }
