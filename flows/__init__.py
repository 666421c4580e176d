"""One Prefect flow per response phase, and `respond`, which walks a playbook through them.

No class is defined here: Prefect loads these files under another module name.
"""
