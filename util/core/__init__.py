"""Errors, files, command lines, processes."""
