"""What the exporters of frozen encoders share: reading checkpoints, the two models, the comparisons, the file."""
