"""Pages that read the cache and show it. Nothing here writes to the cache or imports torch.

A page is `views/NAME.py`: what its screen shows, from top to bottom. What only that page needs stands in the folder
`NAME/`, in at most three rooms: `sections` draws the parts of the screen, `data` asks the cache and prepares what is
shown, `controls` holds the reader's choices. `jobs/` runs the studies that are started from a page.
"""
