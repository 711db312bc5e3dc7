"""From a trained model to something that others can load: what a folder carries besides its weights."""
