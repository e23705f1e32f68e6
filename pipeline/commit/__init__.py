"""Results in, durable tables out.

In       schema.PARTS, in any order, from any process, possibly twice
Out      schema.CAPTIONS: captions/<shard>.parquet, whose existence is the commit
Rejects  schema.QUARANTINE: quarantine/<shard>.parquet, written first

rows ─> commit (parts) ─> merge (final tables)      plan (what is left) · recipe (one an output) · budget
"""
