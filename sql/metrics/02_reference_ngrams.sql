-- Grain: one row for each image, reference (ordinal), order n (1 to 4) and distinct n-gram; count is how often.
-- Reads "references" (schema: 01_candidate_ngrams.sql).
create or replace temp table reference_ngrams as
with places as (
    select key, ordinal, tokens, n, unnest(range(1, len(tokens) - n + 2)) as place
    from "references", range(1, 5) as orders (n)
)
select key, ordinal, n, array_to_string(tokens[place : place + n - 1], ' ') as ngram, count(*) as count
from places
group by all;
