"""Runs: start and watch a study, see how earlier runs ended, and what each lane really ran."""

from dashboard import access, page, share, state
from dashboard.runs import sections

chosen = page.options()
sections.show(chosen)
share.import_file(chosen, access.of_session(chosen))
chosen, study = page.open_study(level=2)
sections.environments(study)
sections.failures(study)
sections.schedules_run(chosen, study)
state.keep_in_address(study=study.id)
