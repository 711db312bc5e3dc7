"""What is computed beside the recurrence, in one pass over memory."""
