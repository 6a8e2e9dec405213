"""What users call: `load_encoder`, `encode`, the scikit-learn featurizer."""
