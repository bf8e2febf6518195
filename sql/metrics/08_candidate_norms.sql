-- Grain: one row for each image: for n = 1 to 4 the length of its candidate's vector of n-grams, in units of 2^-32.
-- An entry of the vector is count times idf (07_common_ngrams.sql).
-- Reads candidates (schema: 01_candidate_ngrams.sql), candidate_ngrams and common_ngrams.
create or replace temp table candidate_norms as
with rare as (
    select (pow(ln(count(*)::double), 2) * pow(2::double, 64))::hugeint as squared_idf
    from candidates
),
squares as (
    select image, n, count * count * coalesce(common_ngrams.squared_idf, rare.squared_idf) as square
    from candidate_ngrams
    left join common_ngrams using (ngram)
    cross join rare
)
select
    image,
    sqrt(sum(square) filter (n = 1)::double) as norm_1,
    sqrt(sum(square) filter (n = 2)::double) as norm_2,
    sqrt(sum(square) filter (n = 3)::double) as norm_3,
    sqrt(sum(square) filter (n = 4)::double) as norm_4
from squares
group by image;
