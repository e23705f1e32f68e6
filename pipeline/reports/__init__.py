"""A run's facts in, an account out.

In   schema.RECEIPTS, as blocks are committed
Out  runs/<run id>/run.json, and the lines that a person reads

receipts ─> tally (counts, times) ─> record (run.json)
"""
