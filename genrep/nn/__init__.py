"""Blocks that encoders, decoders and generators share."""
