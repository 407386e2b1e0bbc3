"""The live page of a site: what its ledger and its node say, drawn in a browser, for whoever never opens a terminal.

`documents` turns a look into what a browser is told, `explorer` reads parts of the ledger for it, `page` makes the page
itself, `server` serves it, and `static/` is what runs in the browser. It only shows: nothing here changes anything, and
all of it is outside of the node, so that whoever watches can delay no round.
"""
