"""Speed and quality: what each lane takes, how good its images are, and how fast it converges."""
