"""The command line, the page, the quickstart."""
