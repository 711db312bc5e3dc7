"""A model for others: a folder for the Hub with its card, and the push."""
