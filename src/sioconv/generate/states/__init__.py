"""What a text has become: states, their files, their store, and the way back through a text."""
