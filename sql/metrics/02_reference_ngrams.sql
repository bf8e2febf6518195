-- Grain: one row for each reference, order n (1 to 4) and distinct n-gram of it; count is how often.
-- Reads "references" (schema, and what an n-gram is: 01_candidate_ngrams.sql).
create or replace temp table reference_ngrams as
with places as (
    select
        image,
        text,
        unnest(words)::hugeint as first,
        unnest(words[2:]) as second,
        unnest(words[3:]) as third,
        unnest(words[4:]) as fourth
    from "references"
)
select image, text, 1::tinyint as n, first as ngram, count(*) as count
from places
group by all
union all
select image, text, 2, first << 31 | second, count(*)
from places
where second is not null
group by all
union all
select image, text, 3, (first << 31 | second) << 31 | third, count(*)
from places
where third is not null
group by all
union all
select image, text, 4, ((first << 31 | second) << 31 | third) << 31 | fourth, count(*)
from places
where fourth is not null
group by all;
