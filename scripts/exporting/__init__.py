"""What the exporters of frozen encoders share: reading checkpoints, the models, the comparisons, the file."""
