"""Callbacks that run without the document's lock, and changes that are sent in the middle of one."""

import asyncio
import time

import panel as pn

pn.extension()
text = pn.pane.Markdown("idle")
press, slow, locked = (pn.widgets.Button(name=name) for name in ("execute", "unlocked", "with lock"))


async def later():
    await asyncio.sleep(0.02)
    text.object = f"executed {press.clicks}"


async def in_the_lock():
    await asyncio.sleep(0.02)
    text.object = f"with lock {locked.clicks}"


def halfway(event):
    with pn.io.unlocked():
        text.object = f"halfway {slow.clicks}"
    time.sleep(1)
    text.object = f"unlocked {slow.clicks}"


press.on_click(lambda event: pn.state.execute(later))
locked.on_click(lambda event: pn.state.execute(pn.io.with_lock(in_the_lock)))
slow.on_click(halfway)
pn.Column(text, press, slow, locked).servable()
