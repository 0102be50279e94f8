"""The dashboard: `streamlit run dashboard/app.py -- --cache PATH [--allow-runs] [--read-only]`."""

import streamlit as st

from dashboard import page


def main() -> None:
    """Routes to a page; each is a file in `views/`."""
    chosen = st.navigation(
        {
            "Study": [
                st.Page("views/overview.py", title="Overview", default=True),
                st.Page("views/compare.py", title="Compare", url_path="compare"),
                st.Page("views/phases.py", title="Phases", url_path="phases"),
                st.Page("views/speed.py", title="Speed and quality", url_path="speed"),
                st.Page("views/cost.py", title="Cost", url_path="cost"),
            ],
            "Lab": [
                st.Page("views/runs.py", title="Runs", url_path="runs"),
                st.Page("views/vote.py", title="Vote", url_path="vote"),
                st.Page("views/learn.py", title="Learn", url_path="learn"),
            ],
        },
    )
    st.set_page_config(page_title=f"{chosen.title} - Scheduler lab", layout="wide")
    page.begin()
    chosen.run()


main()
