"""Measuring: methods against each other, in one process, prompt by prompt."""
