"""Self-contained HTML pages: templates and figures."""
