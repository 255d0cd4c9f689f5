"""The command line of `aperture doctor URL`."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys

from aperture.doctor.examination import Patient, examine
from aperture.doctor.findings import Finding, Verdict
from aperture.doctor.visit import Visitor
from aperture.errors import BadAddress, ConfigurationError, ExitCode

__all__ = ["doctor", "doctor_parser"]

_MARKS = {Verdict.GOOD: "ok", Verdict.DOUBT: "??", Verdict.PROBLEM: "!!"}

LONGEST = 3600.0
"""The longest wait accepted, in seconds: a larger number is a typing mistake."""


def doctor_parser(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the arguments of `aperture doctor`."""
    parser.add_argument("url", metavar="URL", help="of an app, as its users open it")
    parser.add_argument("--origin", help="of a page on another site that embeds the app, as https://site.example")
    parser.add_argument(
        "--header",
        action="append",
        default=[],
        metavar="'NAME: VALUE'",
        help="sent with everything, as often as needed",
    )
    parser.add_argument("--timeout", type=float, default=10.0, help="seconds for any one answer (default: %(default)s)")
    parser.add_argument(
        "--patience",
        type=float,
        default=40.0,
        help="seconds to watch a quiet websocket; servers ping it every 37 s; 0 does not (default: %(default)s)",
    )
    parser.add_argument("--insecure", action="store_true", help="ignore a certificate that cannot be trusted")
    parser.add_argument("--json", action="store_true", help="one object a line, for programs")
    return parser


def doctor(given: argparse.Namespace) -> int:
    """Run the checks, and print each finding at once.

    Returns:
        An exit code: 0 without problems, 1 with one.

    Raises:
        ConfigurationError: the address or an option is invalid.
    """
    patient = _patient(given)
    logging.getLogger("tornado").setLevel(logging.CRITICAL)  # findings report failures, once
    return asyncio.run(_examine(patient, as_json=given.json))


async def _examine(patient: Patient, *, as_json: bool) -> int:
    wrong = False
    try:
        async for finding in examine(patient):
            wrong = wrong or finding.verdict is Verdict.PROBLEM
            sys.stdout.write((_as_json(finding) if as_json else _as_text(finding)) + "\n")
            sys.stdout.flush()
    except BadAddress as problem:
        raise ConfigurationError(str(problem)) from None
    return ExitCode.INTERNAL if wrong else ExitCode.OK


def _patient(given: argparse.Namespace) -> Patient:
    for name, value in (("--timeout", given.timeout), ("--patience", given.patience)):
        if not 0 <= value <= LONGEST or (name == "--timeout" and value == 0):
            raise ConfigurationError(f"{name}={value}: not a number of seconds up to {LONGEST:g}")
    headers = {}
    for header in given.header:
        name, colon, value = header.partition(":")
        if not colon or not name.strip() or any(sign in header for sign in "\r\n"):
            raise ConfigurationError(f"--header {header!r}: not of the form 'Name: value'")
        headers[name.strip()] = value.strip()
    visitor = Visitor(headers, given.timeout, not given.insecure)
    return Patient(given.url, visitor, given.origin, given.patience)


def _as_text(finding: Finding) -> str:
    line = f"{_MARKS[finding.verdict]}  {finding.check:<11} {finding.what}"
    return f"{line}\n{'':16}-> {finding.mend}" if finding.mend else line


def _as_json(finding: Finding) -> str:
    fields = {"check": finding.check, "verdict": finding.verdict.value, "what": finding.what, "mend": finding.mend}
    return json.dumps(fields)
