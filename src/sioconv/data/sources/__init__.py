"""Where text comes from: the rows of files, folders, the Hub and the package's own text."""
