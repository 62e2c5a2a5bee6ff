"""Methods, data and training put together."""
