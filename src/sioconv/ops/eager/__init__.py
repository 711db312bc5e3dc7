"""The recurrence in plain torch: `reference`, `matrix` and `chunked`."""
