"""One file per command: builds the parts and hands them on. The table of contents of the package."""
