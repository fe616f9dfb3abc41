"""Serving: the policy artefact, and text written with it."""
