"""Runs started from a page: the queue, who works through it, and what their logs say."""
