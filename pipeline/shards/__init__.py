"""Raw layouts in, WebDataset archives out.

In       folders, manifests, corpora, other archives
Out      deterministic tars bounded by size and count, with index files
Rejects  schema.REFUSED: rows and files of the source that are no sample

layout (pieces, items) ─> scan (index) ─> order (shards) ─> write (tars) ─> indices      merge: captions back into archives
"""
