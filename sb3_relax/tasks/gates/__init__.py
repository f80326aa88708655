"""Which features a fitted classifier can do without: gates are drawn, and what they leave of it is the cost."""
