"""GSTransform (arXiv 2505.24754): a linear map, fitted once per instruction, that re-shapes vectors already stored."""
