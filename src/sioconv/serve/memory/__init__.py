"""Where states and responses are kept: in memory, in a file, in Redis or Valkey; encrypted where a key is given."""
