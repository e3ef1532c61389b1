"""Quality of reconstructions and of generated images, always of uint8 pixels."""
