"""Takes screenshots of a running dashboard: `python docs/screenshots/take.py [URL] [CHROMIUM] [FOLDER] [all|whole]`."""

import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

SIZES = {"laptop": (1440, 900), "phone": (390, 844)}
# Page -> (address, what has to be there before the picture is taken).
PAGES = {
    "overview": ("/", ".lab-pictures img"),
    "compare": ("/compare", ".player figure img"),
    "phases": ("/phases", "canvas, svg.marks"),
    "speed": ("/speed", ".lab-legend"),
    "cost": ("/cost", ".lab-figures"),
    "tune": ("/tune", ".lab-title"),
    "vote": ("/vote", ".lab-title"),
    "runs": ("/runs", ".lab-title"),
    "learn": ("/learn", ".lab-shots img"),
}
SETTLE_MILLISECONDS = 1500  # charts are drawn after the texts
# Streamlit scrolls inside this element: the window grows by what is hidden there.
HIDDEN_HEIGHT = """() => {
    const main = document.querySelector('[data-testid="stMain"]');
    return Math.max(0, main.scrollHeight - main.clientHeight);
}"""


def main(
    url: str = "http://localhost:8501",
    chromium: str = "/usr/bin/chromium",
    folder: str = str(Path(__file__).parent),
    more: str = "",
) -> None:
    """Writes PAGE-laptop-light.png for every page.

    Args:
        url: Of the dashboard.
        chromium: The browser.
        folder: Where the pictures go.
        more: "all" for every size and colour scheme; "whole" for them and whole pages.
    """
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for scheme in ("light", "dark") if more else ("light",):
            for size, (width, height) in SIZES.items() if more else [("laptop", SIZES["laptop"])]:
                view = {"width": width, "height": height}
                page = browser.new_context(viewport=view, color_scheme=scheme).new_page()
                for name, (address, sign) in PAGES.items():
                    page.set_viewport_size(view)
                    page.goto(url + address)
                    page.locator(sign).first.wait_for()
                    page.wait_for_timeout(SETTLE_MILLISECONDS)
                    if more == "whole":
                        hidden = int(page.evaluate(HIDDEN_HEIGHT))
                        page.set_viewport_size({"width": width, "height": height + hidden})
                        page.wait_for_timeout(SETTLE_MILLISECONDS)
                    page.screenshot(path=Path(folder) / f"{name}-{size}-{scheme}.png")
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
