"""Live: the run that goes on, shown on the pages of its cache while it goes on."""
