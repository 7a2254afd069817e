"""Parts of graphs, sessions and checkpoints: TensorFlow, without data."""
