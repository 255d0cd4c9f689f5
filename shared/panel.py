"""`aperture.panel`: Panel's `pn.serve` on this server. It needs `pip install 'bokeh-aperture[panel]'`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta

from aperture.gateway.embed.panel_server import serve

__all__ = ["once", "serve"]


def once(name: str, task: Callable[[], object], within: timedelta) -> Callable[[], Awaitable[None]]:
    """A task for `pn.state.schedule_task` that one worker runs, of all workers of all nodes.

        mail = aperture.panel.once("mail", send_mail, within=timedelta(hours=23))
        pn.state.schedule_task("mail", mail, period="1d")

    Each worker schedules it, and whichever comes first runs it. If that one has died by the next time, another runs it.
    A time at which Redis cannot be reached is left out.

    Args:
        name: of the task; the same in all workers.
        task: what is to be done; may be async. Without `threaded=True`.
        within: for how long no other worker may run it again: a little less than its period, and longer than the
            clocks of the nodes differ.

    Returns:
        What to give to `pn.state.schedule_task`.
    """
    from aperture.worker.panel.tasks import TASKS

    return TASKS.once(name, task, within)
