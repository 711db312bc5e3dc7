"""What of the text stays: rules for each document, duplicates, the held-out part."""
