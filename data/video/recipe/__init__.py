"""How the video model is made: a painter of endless clips, and the trainings that learn from them."""
