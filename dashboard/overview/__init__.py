"""Overview: the decision, the images, common claims and the times of a study."""
