"""How the scenes model is made: a painter of endless scenes, and the trainings that learn from them."""
