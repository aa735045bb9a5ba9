"""LG-ANNA (arXiv 2506.07438): a decoder reads examples, the task and the query; its last state is the embedding."""
