"""Rows in, captions out.

In       schema.SAMPLES: decoded pictures, recordings, clips
Out      schema.PARTS: the same rows with captions
Rejects  rows of the same table with status, stage `engine`, reason and detail

rows ─> stage (an actor: micro-batches, halves, guard) ─> engine (facts | whisper | transformers | your own)
"""
