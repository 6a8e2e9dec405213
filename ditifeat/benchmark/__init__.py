"""Methods compared: baselines, scores, the evaluation of edits."""
