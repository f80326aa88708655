"""The estimators: one method a file, the mathematics in the docstring."""
