"""Playbooks: the language, the pure engine that decides, the gates, and the walk that acts."""
