"""The `report` command and evaluation pages: read run folders, write HTML, JSON and PDF."""
