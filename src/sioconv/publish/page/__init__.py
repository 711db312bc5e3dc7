"""The page that needs no server: a model, what runs it in a browser, and the page itself, for any static host."""
