"""In a real browser: the writer of animations, against Pillow."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dashboard.compare import sections


@pytest.mark.parametrize("size", [(3, 2), (311, 203)])
def test_the_gif_writer_keeps_up_to_256_colours_exactly(size: tuple[int, int], chromium_page: Any) -> None:
    generator = np.random.default_rng(0)
    levels = np.arange(4, 256, 40, dtype=np.uint8)[:6]
    colours = np.array([(r, g, b) for r in levels for g in levels for b in levels], dtype=np.uint8)
    first = colours[generator.integers(0, len(colours), (size[1], size[0]))]
    second = np.broadcast_to(colours[7], first.shape)
    folder = Path(sections.__file__).parent / "browser"
    chromium_page.goto("about:blank")
    chromium_page.add_script_tag(content=(folder / "gif.js").read_text(encoding="utf-8"))
    opaque = [np.dstack([one, np.full(one.shape[:2], 255, np.uint8)]).ravel().tolist() for one in (first, second)]
    written = chromium_page.evaluate(
        """async ([width, height, frames]) => {
          const writer = gifWriter(width, height);
          frames.forEach((frame) => writer.add(Uint8ClampedArray.from(frame), 70));
          return [...new Uint8Array(await writer.blob().arrayBuffer())];
        }""",
        [*size, opaque],
    )
    image = Image.open(io.BytesIO(bytes(written)))
    assert (image.size, image.n_frames, image.info["duration"]) == (size, 2, 70)
    assert (np.asarray(image.convert("RGB")) == first).all()
    image.seek(1)
    assert (np.asarray(image.convert("RGB")) == second).all()
