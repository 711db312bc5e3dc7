"""Forms of text that are documents: books, pages, papers."""
