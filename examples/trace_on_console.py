"""Every stage in OpenTelemetry: what was judged, solved, searched again and transformed, with counts and milliseconds.

Run: .venv/bin/python examples/trace_on_console.py [--llm MODEL --llm-base URL]; the key is read from OPENAI_API_KEY. Needs the
extra otel.
"""

import argparse
from collections import defaultdict
from pathlib import Path

from llama_index_instruct import (
    GSTransformRetriever,
    MetadataLabels,
    MissingExtraError,
    RefinementRetriever,
    fit_gstransform,
)
from llama_index_instruct.cli.options import openai_like
from llama_index_instruct.evaluation.datasets import load_tickets
from llama_index_instruct.evaluation.demo import label_judge, ticket_index

try:
    from llama_index.observability.otel import LlamaIndexOpenTelemetry
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
except ImportError as error:
    raise MissingExtraError("Tracing with OpenTelemetry", "otel") from error

tickets, queries = load_tickets(Path(__file__).parent / "data")
query = next(query for query in queries if "cannot sign in" in query.text)
index = ticket_index(tickets[:120])
parser = argparse.ArgumentParser()
parser.add_argument("--llm")
parser.add_argument("--llm-base")
options = parser.parse_args()
llm = openai_like(options.llm, options.llm_base)

# All that an app needs. Any exporter fits, such as ConsoleSpanExporter or OTLP to a collector; this one keeps the spans for the
# tree below. Ours hold counts only. LlamaIndex's own events hold texts: send them where your documents may go.
spans = InMemorySpanExporter()
LlamaIndexOpenTelemetry(span_exporter=spans, span_processor="simple").start_registering()

judge = {"llm": llm} if llm else {"judge": label_judge(tickets, query)}
RefinementRetriever(index.as_retriever(similarity_top_k=6), **judge).retrieve(query.text)
transform = fit_gstransform(index, instruction="What went wrong?", labels=MetadataLabels("issue"), sample=100)
GSTransformRetriever(index, transform=transform, similarity_top_k=6).retrieve(query.text)

below = defaultdict(list)
for span in sorted(spans.get_finished_spans(), key=lambda span: span.start_time):
    below[span.parent and span.parent.span_id].append(span)


def show(span: ReadableSpan, depth: int) -> None:
    counts = {
        key.removeprefix("counts."): round(value, 3) if isinstance(value, float) else value
        for event in span.events
        if event.name == "StageEvent"
        for key, value in event.attributes.items()
        if key.startswith("counts.") and value
    }
    told = " ".join(f"{name}={value}" for name, value in counts.items())
    print(f"{(span.end_time - span.start_time) / 1e6:8.1f} ms  {'  ' * depth}{span.name}  {told}")
    for child in below[span.context.span_id]:
        show(child, depth + 1)


for root in below[None]:
    show(root, 0)
