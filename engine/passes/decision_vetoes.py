"""What may veto a lane that every guard accepts: people's votes, and the distance of whole sets of pictures.

Neither has evidence that may be looked at again and again, so that neither ever recommends a lane. They are asked where
other pictures are allowed (goal "as-good"), whose guards look at one picture at a time.
"""

import pandas as pd

from engine.analysis import votes
from engine.cache import score_tables, vote_table
from engine.cache.connection import Connection

SETS = "kid"


def vetoes(db: Connection, study: str, baseline: str, steps: dict[str, int]) -> dict[str, str]:
    """Lane -> why it is not as good, by votes against it or by a set distance to the baseline that is above 0.

    Args:
        db: An open connection.
        study: Its name.
        baseline: The lane that the others would replace.
        steps: Lane -> its steps, of all lanes of the study.
    """
    against = _voted_down(vote_table.votes(db, study), baseline, steps)
    return _other_sets(score_tables.lane_scores(db, study, [baseline]), baseline) | against


def _voted_down(table: pd.DataFrame, baseline: str, steps: dict[str, int]) -> dict[str, str]:
    used = votes.counted(table, votes.inattentive(table, steps)) if len(table) else table
    found = {}
    for lane in steps if len(used) else ():
        said = votes.preference(used, lane, baseline)
        if lane != baseline and said.verdict == "not preferred":
            interval = f"{100 * said.value:.0f} % [{100 * said.low:.0f}, {100 * said.high:.0f}]"
            found[lane] = f"People prefer {baseline}: it won only {interval} of {said.votes} votes."
    return found


def _other_sets(sets: pd.DataFrame, baseline: str) -> dict[str, str]:
    rows = sets[(sets["metric"] == SETS) & (sets["against"] == baseline) & (sets["low"] > 0)]
    return {
        str(row.lane): f"Its pictures as a set are not those of {baseline}: {row.label} {row.value:.3g} "
        f"[{row.low:.3g}, {row.high:.3g}] of {int(row.n)} pictures."
        for row in rows.itertuples()
    }
