-- Grain: one row for each image and order n (1 to 4), short candidates included: n-grams guessed, how many of them are
-- correct (clipped by the largest count in any one reference), the candidate's length and the closest reference's
-- (ties go to the shorter).
-- Reads candidates, "references" (schema: 01_candidate_ngrams.sql), candidate_ngrams and reference_ngrams.
create or replace temp table bleu_counts as
with lengths as (
    select
        candidates.key,
        any_value(len(candidates.tokens)) as candidate_length,
        min({
            'distance': abs(len("references".tokens) - len(candidates.tokens)),
            'length': len("references".tokens)
        }).length as reference_length
    from candidates
    join "references" using (key)
    group by candidates.key
),
allowed as (
    select key, n, ngram, max(count) as count
    from reference_ngrams
    group by all
),
matches as (
    select key, n, sum(least(candidate_ngrams.count, allowed.count)) as correct
    from candidate_ngrams
    join allowed using (key, n, ngram)
    group by all
)
select
    key,
    n,
    coalesce(correct, 0)::bigint as correct,
    greatest(candidate_length - n + 1, 0) as guessed,
    candidate_length,
    reference_length
from lengths
cross join range(1, 5) as orders (n)
left join matches using (key, n);
