"""Progress bars, and text that a terminal may show."""
