"""Serving: generate text with a learned exit policy, from Python or over HTTP."""
