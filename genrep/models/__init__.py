"""Models that are saved and loaded: diffusers models, whose constructor arguments are their `config.json`."""
