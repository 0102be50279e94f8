"""The bundled text-to-image model and the recipe that made it."""
