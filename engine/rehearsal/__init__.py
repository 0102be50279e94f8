"""What a model will cost before it is fetched: its parts in their real size, with random weights. Needs no cache."""
