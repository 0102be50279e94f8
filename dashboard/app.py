"""The dashboard: `streamlit run dashboard/app.py -- --cache PATH [--read-only]`."""

import streamlit as st

from dashboard import page


def main() -> None:
    """Routes to a page; each is a file in `views/`."""
    st.set_page_config(page_title="Scheduler lab", layout="wide")
    chosen = st.navigation(
        [
            st.Page("views/overview.py", title="Overview", default=True),
            st.Page("views/compare.py", title="Compare", url_path="compare"),
            st.Page("views/cost.py", title="Cost", url_path="cost"),
        ],
        position="top",
    )
    page.style()
    chosen.run()


main()
