"""What several paths share."""
