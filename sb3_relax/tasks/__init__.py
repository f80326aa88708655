"""The tasks of the paper beside reinforcement learning, on the estimator core alone."""
