"""A corpus that grows and changes, night after night: what is new, what is done, what looks wrong. Ray-free.

In       a listing of archives, caption tables of the nights before
Out      nights/<date>.json and .html, one a night; version folders, one a recipe; the ledger of each
Rejects  none: samples are the commit's

listing ─> compare (with the ledger) ─> a run ─> ledger ─> account ─> drift ─> record ─> page
"""
