-- Grain: one row for each image, numbered from 0 on.
-- Reads candidate_captions (key varchar, words integer[], repeats boolean, tokens integer[]); all but the key is what
-- clipcap.metrics.words makes of a tokenized caption, tokens null where ROUGE-L reads the same as the other metrics.
create or replace temp table candidates as
select (row_number() over () - 1)::integer as image, key, words, tokens
from candidate_captions;
