"""`aperture doctor`: from a user's machine to a session and back, saying in plain words what is in the way.

It does what a browser does, through whatever proxies stand before the server, and knows neither the server's settings
nor its insides; it examines `bokeh serve` as well. `findings` holds what is found, `visit` does the I/O, `checks`
judges, `examination` puts them in order, `command` is the command line.
"""

from __future__ import annotations

from aperture.doctor.examination import Patient, examine
from aperture.doctor.findings import Finding, Verdict

__all__ = ["Finding", "Patient", "Verdict", "examine"]
