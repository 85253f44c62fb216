"""What `tocsin doctor` finds: what an installation will suffer from, although its configuration is valid.

`examination.py` has all checks in their order. A check asks one server, disk or process, and returns findings.
"""
