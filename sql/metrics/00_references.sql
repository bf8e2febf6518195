-- Grain: one row for each reference of an image that has a candidate, with a number of its own.
-- Reads candidates and reference_captions (columns as in 00_candidates.sql).
create or replace temp table "references" as
select image, row_number() over ()::integer as text, r.words, r.repeats, r.tokens
from reference_captions as r
join candidates using (key);
