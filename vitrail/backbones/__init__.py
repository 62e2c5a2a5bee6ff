"""Vision Transformers behind one contract."""
