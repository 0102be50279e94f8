"""A study as a folder of files for any web space: the report, and Compare with all it can do. No server, no network.

`python -m engine share` calls it. The scenes of Compare are scripts rather than data files, so that the site opens from
a disk too, where browsers fetch nothing.
"""

import html as markup
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dashboard import loaders
from dashboard.compare.data import CompareScene, farthest_pair, lane_times, payload, time_line
from dashboard.compare.sections import script
from dashboard.components import image_places
from engine.analysis.differences import Differences
from engine.cache.connection import Connection, reading
from engine.errors import LabError
from engine.results import Results
from engine.sharing.export import write_whole
from engine.sharing.report.contents import read_report
from engine.sharing.report.page import render
from engine.sharing.report.poster import render_png
from engine.sharing.report.report_charts import safe_json

MOST_SCENES = 40
POSTER = "picture.png"
_HERE = Path(__file__).parent
_SHELL = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>{title}: from noise to picture</title>
{cards}
<link rel="stylesheet" href="compare.css">
</head>
<body>
<header><p><a href="index.html">{title}</a></p><h1>From noise to picture</h1>
<label>Prompt and seed <select id="scenes">{options}</select></label></header>
<main><div class="player"></div></main>
<noscript><p>This page needs scripts. <a href="index.html">The report</a> does not.</p></noscript>
<script src="player.js"></script>
</body>
</html>
"""
_LOADER = """
const scenes = document.getElementById("scenes");
const shown = document.querySelector("main");
window.labScene = (data) => player({ data, parentElement: shown });
const load = () => document.body.append(
  Object.assign(document.createElement("script"), { src: `scenes/${scenes.value}.js`, onload() { this.remove(); } }));
scenes.onchange = load;
// On a disk the address of a page cannot be rewritten, and need not be.
if (location.protocol === "file:") history.replaceState = () => {};
load();
"""


def write_site(cache: Path, study_id: str, folder: Path, url: str = "") -> list[Path]:
    """Writes the site of a study, and returns its files.

    Args:
        cache: The cache that holds the study.
        study_id: Its name.
        folder: It is made if it is not there; files of an earlier site in it are replaced.
        url: The address that the folder is going to have, for previews of links, which need an absolute one.

    Raises:
        LabError: There is no such study, the address is none, or a file cannot be written.
    """
    if url and urllib.parse.urlsplit(url).scheme not in {"http", "https"}:
        raise LabError(f"--url {url!r} should begin with https:// or http://.")
    try:
        (folder / "scenes").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LabError(f"--to {folder}: the folder cannot be made: {error.strerror}.") from error
    with reading(cache) as db:
        report = read_report(db, study_id)
        study = report.results
        found = loaders.differences_of(study)
        differing = found.read(db, *found.arguments)
        scenes = list(_scenes(db, study, differing))
    cards = _cards(study.id, report.headline.sentence, url)
    page = render(report).replace("</title>", f"</title>\n{cards}", 1)
    link = '<p class="lead"><a href="compare.html">See every lane from noise to picture</a></p>'
    files: dict[str, str | bytes] = {
        "index.html": page.replace("</header>", f"{link}</header>", 1),
        "compare.html": _compare(study.id, [name for name, _ in scenes], cards),
        "compare.css": _style(),
        "player.js": script().replace("export default function (component)", "function player(component)") + _LOADER,
        POSTER: render_png(report),
    }
    files |= {f"scenes/{number}.js": f"labScene({safe_json(data)});\n" for number, (_, data) in enumerate(scenes)}
    for name, content in files.items():
        data = content.encode("utf-8") if isinstance(content, str) else content
        write_whole(folder / name, lambda file, data=data: file.write_bytes(data))  # type: ignore[misc]
    return [folder / name for name in files]


def _scenes(db: Connection, study: Results, found: Differences) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and contents of each prompt and seed, those first where lanes differ most."""
    everything = [(prompt, seed) for prompt in study.prompts for seed in study.seeds]
    for prompt, seed in (found.ranked("different", framed=True) or everything)[:MOST_SCENES]:
        cells = [study.cell(lane.key, prompt, seed) for lane in study.lanes]
        ids = [cell.trajectory_id for cell in cells if cell.state == "done"]
        pictures = loaders.pictures_of(ids, ["x0", "xt", "final"], whole_videos=True)
        converged = loaders.converged_at(study.id, prompt, seed)
        measured = time_line(study.times)
        scene = CompareScene(
            study,
            prompt,
            seed,
            "both",
            pictures.read(db, *pictures.arguments),
            lane_times(study.times),
            converged.read(db, *converged.arguments),
            [" · ".join(filter(None, image_places(study)))],
            measured,
        )
        yield f"{prompt}, seed {seed}", payload(scene) | {"pair": farthest_pair(study, prompt, seed, found)}


def _cards(name: str, sentence: str, url: str) -> str:
    """What previews of links show (Open Graph)."""
    base = f"{url.rstrip('/')}/" if url else ""
    values = {"og:type": "website", "og:title": f"{name}: what the schedulers buy", "og:description": sentence}
    if base:
        values |= {"og:url": base, "og:image": base + POSTER, "twitter:card": "summary_large_image"}
    return "\n".join(f'<meta property="{key}" content="{markup.escape(text)}">' for key, text in values.items())


def _compare(name: str, scenes: list[str], cards: str) -> str:
    options = "".join(f'<option value="{place}">{markup.escape(text)}</option>' for place, text in enumerate(scenes))
    return _SHELL.format(title=markup.escape(name), cards=cards, options=options)


def _style() -> str:
    """The player's, with the names that Streamlit gives to its colours."""
    own = (_HERE / "static_site.css").read_text(encoding="utf-8")
    return own + (_HERE / "compare" / "player.css").read_text(encoding="utf-8")
