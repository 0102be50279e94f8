"""Overview: what was run, how long each lane takes, and what the images look like."""

from dashboard import components, page, state
from dashboard.overview import sections

chosen, study = page.open_study()
timings = components.pick_timings(study)
sections.key_figures(study, timings)
sections.times(study, timings)
sections.final_pictures(chosen, study)
sections.outcome(study)
sections.failures(study)
state.keep_in_address(study=study.id)
