"""Firebreak: response to AI supply-chain incidents."""

__version__ = "0.1.0"
