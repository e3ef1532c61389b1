"""Quality of reconstructions and of generated images."""
