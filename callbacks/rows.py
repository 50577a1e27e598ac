"""Ends of the names of rows that a number is read against. It imports nothing."""

UNTRANSLATED, CEILING = REFERENCE_ROWS = "_untranslated", "_ceiling"  # these need no model
PRIOR = "_prior"  # translated in styles of the prior, which know nothing of the reference: a floor of the model itself
CHANCE = "_chance"  # of what belongs to another image
FLOORS = UNTRANSLATED, PRIOR, CHANCE
