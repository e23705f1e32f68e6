"""Nightcap's library: what flows from archives to captions, and what is done to it."""
