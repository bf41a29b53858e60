"""Which pool paints a request, and how it gets there and back."""
