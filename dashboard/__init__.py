"""Pages that read the cache and show it. Nothing here writes to the cache or imports torch."""
