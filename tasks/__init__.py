"""Thin Prefect tasks: one library call each, with its retries and its timeout.

Every task takes ids and words, never clients, arrays or open files, and returns JSON. None caches:
the journal says what is done, and an action that is done returns its receipt again.
"""
