"""RTNet: unsupervised video object segmentation by reciprocal transformations. Runs without Ray or MLflow."""
