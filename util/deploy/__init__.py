"""The web page and the export."""
