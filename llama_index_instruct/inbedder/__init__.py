"""InBedder (arXiv 2402.09642): the instruction is a question, the embedding is the model's expected answer."""
