"""`aperture doctor`: connects from a user's machine to a session, and reports in plain words what blocks the way.

It does what a browser does, through all proxies in front of the server, and uses neither the server's settings nor its
internals, so it checks `bokeh serve` as well. `findings` has the type of a result, `visit` does the I/O, `checks`
turns answers into findings, `examination` runs the checks in order, `command` is the command line.
"""

from __future__ import annotations

from aperture.doctor.examination import Patient, examine
from aperture.doctor.findings import Finding, Verdict

__all__ = ["Finding", "Patient", "Verdict", "examine"]
