-- Grain: one row for each image, order n (1 to 4) and distinct n-gram of the image's candidate; count is how often.
--
-- All files of this folder run one after the other, by hand too, on two tables that come first:
--   create table candidates   (key varchar, tokens varchar[]);                   -- one row for each image
--   create table "references" (key varchar, ordinal integer, tokens varchar[]);  -- one row for each reference caption
-- Each file makes the temporary table it is named after. No token holds a space, so joining by spaces is one to one.
create or replace temp table candidate_ngrams as
with places as (
    select key, tokens, n, unnest(range(1, len(tokens) - n + 2)) as place
    from candidates, range(1, 5) as orders (n)
)
select key, n, array_to_string(tokens[place : place + n - 1], ' ') as ngram, count(*) as count
from places
group by all;
