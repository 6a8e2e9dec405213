"""Counterfactuals: edits along attributes or by subsets of a reference, and what is lost at each time-step."""
