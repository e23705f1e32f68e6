"""Results in, durable tables out.

In       schema.PARTS, in any order, from any process, possibly twice; schema.PREPARED, a shard in order by one process
Out      schema.CAPTIONS: captions/<shard>.parquet; schema.PREPARED: prepared/<shard>.parquet or archives/<shard>.tar. Existence is the commit
Rejects  schema.QUARANTINE: quarantine/<shard>.parquet, written first

rows ─> commit (parts) ─> merge (final tables)      prepared rows ─> prepared (row groups, archives)      quarantine ─> revise, amend
plan (what is left) · recipe (one an output) · budget
"""
