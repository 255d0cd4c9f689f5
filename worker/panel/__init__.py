"""Apps written with Panel, on this server: the only package that imports `panel`, and only where an app needs it.

Panel comes with a server of its own, which is Bokeh's with other classes in some places, and much of Panel asks for
those. Here is what it finds instead: a request of the type that it tests for and pages with its styles
(`panel_framework`), one socket that stands for everybody who has the document (`connections`), its routes (`routes`),
its command line (`serve_command`).
"""
