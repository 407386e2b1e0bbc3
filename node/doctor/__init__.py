"""Whether a site can take part, and if not, why not and what to do: what `swarm doctor` asks.

`examination` has the table of checks, one module each group of them. A check is a small function of a `Case`; it
changes nothing at the site and nothing elsewhere.
"""
