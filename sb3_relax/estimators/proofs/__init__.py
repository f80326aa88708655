"""What shows that an estimator is unbiased, and what it costs: expectations without sampling, and variances."""
