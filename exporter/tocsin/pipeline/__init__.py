"""The middle of the program: what happens to a batch of rows or events, step by step.

It knows no configuration, no HTTP and no SQL.
"""
