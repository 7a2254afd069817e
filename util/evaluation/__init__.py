"""Tests and their reports."""
