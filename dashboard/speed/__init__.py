"""Speed and quality: the cost of each lane, the quality of its images, and how fast it converges."""
