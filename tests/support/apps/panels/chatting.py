"""A chat whose answers come word by word."""

import asyncio

import panel as pn

pn.extension()


async def answer(contents, user, instance):
    said = ""
    for word in ("you", "said", contents, "end"):
        await asyncio.sleep(0.02)
        said += f" {word}"
        yield said.strip()


chat = pn.chat.ChatInterface(callback=answer, callback_exception="verbose", height=400)
pn.Column(chat).servable()
