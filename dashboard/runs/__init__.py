"""Runs: starting a study from the page, one at a time, and what became of those started before."""
