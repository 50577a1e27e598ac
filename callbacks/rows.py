"""Ends of the names of rows that need no model: what a translation is read against. It imports nothing."""

UNTRANSLATED, CEILING = REFERENCE_ROWS = "_untranslated", "_ceiling"
