"""Features, probes, metrics, search and plots: what scikit-learn does with codes."""
