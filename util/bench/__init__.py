"""What `util.benchmark` measures."""
