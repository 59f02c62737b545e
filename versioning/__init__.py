"""The manifest log: immutable, self-contained version objects at dense numbers; creating the next number is the commit.

It records what files and rows a version has, and never opens a tensor. ``spec/LOG.md`` is normative.
"""
