"""One page a verb, `report.html`: a single file that shows what the verb made."""
