"""Who may ask a server, how much of it runs at once, and how large a body may be."""
