"""Capturing evidence, most volatile first. Collectors read; they change nothing."""
