"""What every training loop needs and none should repeat. The specs of how a run goes are in `specs.py`, light."""
