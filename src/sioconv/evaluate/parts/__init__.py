"""What `sioconv evaluate` measures, a file a part; each part's result is plain data, which `tables` shows."""
