"""Words to and from an LLM: all that costs tokens."""
