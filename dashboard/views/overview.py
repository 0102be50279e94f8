"""Overview: what was run, how long each lane takes, and what the images look like."""

from dashboard import components, page, state

chosen, study = page.open_study()
timings = components.pick_timings(study)
components.key_figures(study, timings)
components.times(study, timings)
components.final_pictures(chosen, study)
components.outcome(study)
components.failures(study)
state.keep_in_address(study=study.id)
