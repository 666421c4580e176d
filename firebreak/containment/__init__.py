"""Isolating, stopping, releasing and probing the places a model runs."""
