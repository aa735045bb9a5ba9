"""Real data, what people use today, and the same measures for all."""
