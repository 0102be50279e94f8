"""Vote: which of two final pictures is better, without knowing which scheduler made it."""
