-- Grain: one row for each image, order n (1 to 4) and distinct n-gram of the image's candidate; count is how often.
--
-- The files from here on run one after the other, by hand too, on two tables that come first (00_candidates.sql and
-- 00_references.sql make them of captions with keys):
--   create table candidates   (image integer, words integer[]);
--   create table "references" (image integer, text integer, words integer[], repeats boolean);
-- with one row for each image and one for each reference caption.
-- Words are numbers from 1 on, equal ones for equal words; text is another number for each reference; repeats is false
-- only where no pair of neighbouring words comes twice (true is always right, but slow). Each file makes the temporary
-- table it is named after.
--
-- An n-gram is a number, too, which 00_ngrams_narrow.sql or 00_ngrams_wide.sql makes of those of its words. Sums run
-- over whole numbers, which are exact (what is no whole number is counted in units of 2^-60 or 2^-64): neither the
-- order of rows nor the number of threads changes a bit of any value.
create or replace temp table candidate_ngrams as
with places as (  -- every word with the three after it, null beyond the end
    select
        image,
        one_word(unnest(words)) as first,
        unnest(words[2:]) as second,
        unnest(words[3:]) as third,
        unnest(words[4:]) as fourth
    from candidates
)
select image, 1::tinyint as n, first as ngram, count(*) as count
from places
group by all
union all
select image, 2, followed_by(first, second), count(*)
from places
where second is not null
group by all
union all
select image, 3, followed_by(followed_by(first, second), third), count(*)
from places
where third is not null
group by all
union all
select image, 4, followed_by(followed_by(followed_by(first, second), third), fourth), count(*)
from places
where fourth is not null
group by all;
