-- Grain: one row for each image: for n = 1 to 4 the n-grams guessed and how many of them are correct (clipped by the
-- largest count in any one reference), the candidate's length and the closest reference's (ties go to the shorter).
-- Reads candidates, "references" (schema: 01_candidate_ngrams.sql) and matches.
create or replace temp table bleu_counts as
with lengths as (
    select
        image,
        any_value(len(c.words)) as candidate_length,
        min({'distance': abs(len(r.words) - len(c.words)), 'length': len(r.words)}).length as reference_length
    from candidates as c
    join "references" as r using (image)
    group by image
),
clipped as (
    select image, any_value(n) as n, least(any_value(candidate_count), max(reference_count)) as count
    from matches
    group by image, ngram
),
correct as (
    select
        image,
        sum(count) filter (n = 1) as correct_1,
        sum(count) filter (n = 2) as correct_2,
        sum(count) filter (n = 3) as correct_3,
        sum(count) filter (n = 4) as correct_4
    from clipped
    group by image
)
select
    image,
    coalesce(correct_1, 0)::bigint as correct_1,
    coalesce(correct_2, 0)::bigint as correct_2,
    coalesce(correct_3, 0)::bigint as correct_3,
    coalesce(correct_4, 0)::bigint as correct_4,
    candidate_length as guessed_1,
    greatest(candidate_length - 1, 0) as guessed_2,
    greatest(candidate_length - 2, 0) as guessed_3,
    greatest(candidate_length - 3, 0) as guessed_4,
    candidate_length,
    reference_length
from lengths
left join correct using (image);
