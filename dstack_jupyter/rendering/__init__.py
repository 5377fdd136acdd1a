"""Text and HTML for everything that a cell or a terminal shows; widgets add the life."""
