"""What is saved and loaded: diffusers models, each a constructor whose arguments are its `config.json`."""
