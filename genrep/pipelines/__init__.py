"""From a trained run to images: diffusers pipelines."""
