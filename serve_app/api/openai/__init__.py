"""OpenAI's images API over the same painters, as its official clients use it."""
