"""Networks of one signal: coordinates to values."""
