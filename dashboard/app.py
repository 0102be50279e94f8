"""The dashboard: `streamlit run dashboard/app.py -- --cache PATH [--allow-runs] [--read-only]`."""

import streamlit as st

from dashboard import page


def main() -> None:
    """Routes to a page; each is a file in `views/`."""
    groups = {
        "Study": [
            st.Page("views/overview.py", title="Overview", default=True),
            st.Page("views/compare.py", title="Compare", url_path="compare"),
            st.Page("views/phases.py", title="Phases", url_path="phases"),
            st.Page("views/speed.py", title="Speed and quality", url_path="speed"),
            st.Page("views/cost.py", title="Cost", url_path="cost"),
        ],
        "Lab": [
            st.Page("views/tune.py", title="Tune", url_path="tune"),
            st.Page("views/runs.py", title="Runs", url_path="runs"),
            st.Page("views/vote.py", title="Vote", url_path="vote"),
            st.Page("views/learn.py", title="Learn", url_path="learn"),
        ],
    }
    chosen = st.navigation(groups, position="hidden")
    st.set_page_config(page_title=f"{chosen.title} - Scheduler lab", layout="wide")
    page.begin()
    # Not the menu of Streamlit, whose groups are no valid lists for screen readers.
    with st.sidebar:
        for name, pages in groups.items():
            st.markdown(f"**{name}**")
            for one in pages:
                st.page_link(one)
    chosen.run()


main()
