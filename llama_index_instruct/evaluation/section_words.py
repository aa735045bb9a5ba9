"""What each section of the full report shows, and what it does not."""

RAG = """\
Every peer searches the same collection in the same in-process Qdrant through LlamaIndex's own classes, by the same
queries. MAP@100 counts relevant documents below rank 100 as not found. "Worse" is the share of queries that lose more
than 0.05 average precision. "Ranks moved" is the mean over relevant documents that plain search or the peer has in
its first 100; below is rank 101.

**What this shows.** All peers that ask an LLM ask the same one about the same number of passages: the first 20
(`RefinementRetriever` chooses its 20 among the first 200). No LLM was at hand: its answers are the relevance
judgements, given in the form each peer's own prompt asks for. So the table shows what a method makes of the same
judgements, not what an LLM would say: a rerank of the judged passages is at its ceiling here, and so is ours. A real
LLM errs, by its prompt too; one call for ten passages and one call for one passage need not err alike.

**HyDE** needs text that only an LLM can write. Scripted is: the text of one relevant document of the query. That is
an upper bound (the answer was looked up), and wrong judgements do not touch it.

**The linear adapter** is trained by this project's own loop with the defaults of `EmbeddingAdapterFinetuneEngine`
(its package pulls in clients of four vendors), on half of the queries with up to 20 relevant documents each, and
scored on the other half, both ways round: it is given labels that no other peer has. **The prefix**
(`query_instruction`) is on the query side; the model was not trained for it. **Qdrant's feedback query** has the
weights of its documentation; tuned ones are in the section on refinement. **`pin_judged`** puts what was judged
relevant first, as a reranker does: for corpora whose documents nobody writes to mislead the judge.
**`trusted_judge`** takes every verdict in full. What rerankers drop is put back behind what they keep.

**Times.** Ratios to plain retrieval, encoding of the query included, CPU time of one thread, variants interleaved,
medians over rounds; the LLM answers at once there. "ms, LLM waited for" adds the waiting for an LLM that takes 200 ms
a call and 10 ms more per token of its answer; answers outstanding together count once. That is an assumption about an
endpoint, the same for all. Qdrant's in-process mode computes its feedback query in Python; a server will be faster.
Tokens are characters divided by four, prompts and answers together."""

RAG_WRONG = """\
Which verdicts are turned over depends on seed, query and passage only, so every peer gets the same wrong ones. They
are wrong at random; an LLM's are not. HyDE's passage stays the relevant one."""

REFINEMENT = """\
All queries and whole rankings, in numpy, checked against Qdrant on a sample. The judge is the relevance judgements:
an upper bound of what an LLM's answers could do."""

REFINEMENT_WRONG = """\
Wrong at random; a real LLM errs systematically, mostly by saying yes too often."""

GSTRANSFORM = """\
Fitted on a labelled sample, scored on the other texts. An LLM's labels are neither gold nor wrong at random.
`default` also sees the other texts' vectors, without labels, as it does in use; `default-inductive` does not.
`linear-adapter` is LlamaIndex's, trained by this project's own loop with its defaults."""

GSTRANSFORM_WRONG = """\
Each wrong label is another one at random."""

INBEDDER = """\
The first triplets of each pair of facets, and some texts of each facet: enough to tell models apart by some points.
`prefix:minilm` is an encoder with the instruction before the text."""

COMBINED = """\
Protocol: a text is the query; right is what has its label under the facet's instruction. Sample, queries and
collection are drawn without a text in common, two facets of each corpus. p@k is the share of right ones among the
first k, of those there could be. The judge is the labels, 20 passages a query; clusters come from the shipped
InBedder without any label. Twenty queries a facet: differences of a few points are noise."""

INCONTEXT = """\
A decoder of six layers with random weights: the time does not depend on what it says. What training by the recipe
gains is measured by `bench recipe` and `bench steering`, which train models and are not part of this report."""

MINING = """\
Each question comes with two other wordings of its answer, to be removed, and three passages that share more of its
words and do not answer, to be kept. `topk` removes nothing; `adaptive`, the default for searches, what scores above
95 % of the positive; `verdict`, the default for teachers that judge, above 70 %. `gold:0.05` is a script that knows
the answers and is wrong in 5 % of cases, not a model."""
