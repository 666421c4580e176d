"""The command line. Each module declares one command (`add`) and runs it (`run`).

Modules here import the library inside `run`: `firebreak --help` stays fast and light.
"""
