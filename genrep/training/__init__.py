"""What the training loops share. `specs.py` describes how a run goes and does not import torch."""
