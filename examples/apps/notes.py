"""Notes that are typed, listed and deleted, and still there when the session continues in another worker.

The list is not in the models but in the session's own values; the models are made from it, whenever this code runs. So
it runs again as if nothing had happened, and each button deletes the note that it stands beside. Whatever is made from
a value is named after it: that is how the server tells one list of notes from another of the same length.
"""

from bokeh.io import curdoc
from bokeh.layouts import column, row
from bokeh.models import Button, Div, TextInput

from aperture import session_state

state = session_state()
state.setdefault("notes", {})
state.setdefault("written", 0)

text = TextInput(name="text", title="A new note", width=420)
listed = column(name="listed")
summary = Div(name="summary")


def line(number, words):
    """One note, and the button that deletes it."""

    def delete():
        notes = state["notes"]
        notes.pop(number, None)
        state["notes"] = notes  # reading returns a copy: only an assignment stores it
        show()

    button = Button(name=f"delete-{number}", label="Delete", width=80)
    button.on_click(delete)
    # The page gets the words as they are, not as HTML.
    return row(Div(name=f"note-{number}", text=words, render_as_text=True, width=330), button, name=f"line-{number}")


def show():
    notes = state["notes"]
    listed.children = [line(number, words) for number, words in notes.items()]
    summary.text = f"{len(notes)} of {state['written']} notes are left"


def write(attr, old, new):
    if new.strip():
        state["written"] += 1
        state["notes"] = {**state["notes"], state["written"]: new.strip()}
        text.value = ""
        show()


text.on_change("value", write)
show()

curdoc().add_root(column(text, listed, summary, margin=24))
curdoc().title = "Notes"
