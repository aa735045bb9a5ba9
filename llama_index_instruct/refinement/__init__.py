"""Query refinement (arXiv 2605.12487): judge a few hits, move the query vector, search again."""
