"""What a running node tells machines: facts as lines of JSON, the ids that join them across sites, and spans.

- `traces`: the ids of a round's trace and of the spans in it, which every site computes alike.
- `lines`: a fact as one line of JSON, for the log file and for a stderr that nobody sits at.
- `flows`: when bytes went to whom, from single chunks.
- `spans`: rounds as spans, from those lines.
- `otlp`: spans to a collector; the only file that imports OpenTelemetry.

The node knows nothing of traces: ids follow from what its facts say, and nothing of them is on the wire.
"""
