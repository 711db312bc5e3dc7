"""The verbs for a user's own files: `import`, `tune`."""
