"""Overview: which lane to use, what it saves, what it does to the images, and how certain that is."""

from dashboard import components, loaders, page, share, state
from dashboard.live import sections as live
from dashboard.overview import sections
from dashboard.overview.controls import likeness_chosen

SHOWN_FAILURES = 20

running = live.show(page.options()).runs
chosen, study = page.open_study(status=not running)
study = components.pick_times(study)
headline = sections.top(study)
if not running:
    sections.more_prompts(chosen, study)
likeness = likeness_chosen()
differing, shown, verdicts = page.require_all(
    chosen.cache,
    loaders.differences_of(study),
    lambda found: sections.pictures_of(study, headline.lane, found, likeness),
    loaders.claims_of(study),
)
sections.final_pictures(study, headline.lane, differing, shown, likeness)
sections.elsewhere(study, differing)
sections.tested_claims(study, verdicts)
sections.times(study)
sections.outcome(study)
components.failed_cells(study, SHOWN_FAILURES)
share.report(chosen, study)
state.keep_in_address(study=study.id, likeness="" if likeness == "different" else likeness)
