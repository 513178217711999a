"""Edits for other programs: a folder to load, what to ask of it, and a card that says so.

Knows file formats of other programs. Does not know how edits come about, and changes none.
"""
