-- Grain: one row for each reference and n-gram that it shares with its image's candidate: how often each has it.
-- Reads candidate_ngrams and reference_ngrams.
create or replace temp table matches as
select image, text, r.n, ngram, c.count as candidate_count, r.count as reference_count
from reference_ngrams as r
join candidate_ngrams as c using (image, ngram);
