"""What a model's memory does on a text: forgetting, surprise, and what is still in the state at the end."""
