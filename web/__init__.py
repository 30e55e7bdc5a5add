"""The analyst API (FastAPI) and its one page."""
