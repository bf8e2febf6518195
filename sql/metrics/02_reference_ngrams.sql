-- Grain: one row for each reference, order n (1 to 4) and distinct n-gram of it; count is how often.
-- Where no pair of neighbouring words comes twice, no longer n-gram does either, and nothing is left to count: most of
-- the rows need no grouping.
-- Reads "references" (schema, and what an n-gram is: 01_candidate_ngrams.sql).
create or replace temp table reference_ngrams as
with places as (
    select
        image,
        text,
        repeats,
        one_word(unnest(words)) as first,
        unnest(words[2:]) as second,
        unnest(words[3:]) as third,
        unnest(words[4:]) as fourth
    from "references"
),
longer as not materialized (
    select image, text, repeats, 2::tinyint as n, followed_by(first, second) as ngram
    from places
    where second is not null
    union all
    select image, text, repeats, 3, followed_by(followed_by(first, second), third)
    from places
    where third is not null
    union all
    select image, text, repeats, 4, followed_by(followed_by(followed_by(first, second), third), fourth)
    from places
    where fourth is not null
)
select image, text, 1::tinyint as n, first as ngram, count(*) as count
from places
group by all
union all
select image, text, n, ngram, 1
from longer
where not repeats
union all
select image, text, n, ngram, count(*)
from longer
where repeats
group by all;
