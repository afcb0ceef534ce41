"""(filled in by the room)."""
