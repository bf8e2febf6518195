-- Grain: one row for each reference: for n = 1 to 4 the length of its vector of n-grams, as in 08_candidate_norms.sql.
-- Reads candidates (schema: 01_candidate_ngrams.sql), reference_ngrams and common_ngrams.
create or replace temp table reference_norms as
with rare as (
    select (pow(ln(count(*)::double), 2) * pow(2::double, 64))::hugeint as squared_idf
    from candidates
),
squares as (
    select text, n, count * count * coalesce(common_ngrams.squared_idf, rare.squared_idf) as square
    from reference_ngrams
    left join common_ngrams using (ngram)
    cross join rare
)
select
    text,
    sqrt(sum(square) filter (n = 1)::double) as norm_1,
    sqrt(sum(square) filter (n = 2)::double) as norm_2,
    sqrt(sum(square) filter (n = 3)::double) as norm_3,
    sqrt(sum(square) filter (n = 4)::double) as norm_4
from squares
group by text;
