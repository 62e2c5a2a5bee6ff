"""Pictures of what a backbone sees."""
