"""Data sets, annotations and samples, without TensorFlow."""
