"""A file to download, and one to upload."""

import io

import panel as pn

pn.extension()
upload = pn.widgets.FileInput(name="upload")
count = pn.widgets.IntInput(name="count", value=3)
download = pn.widgets.FileDownload(
    callback=lambda: io.BytesIO(b"x" * count.value), filename="many.txt", button_type="primary"
)
pn.Column(upload, pn.bind(lambda content: f"uploaded {len(content or b'')} bytes", upload), count, download).servable()
