-- one row per caption that is empty, or runs on for more than 200 words
-- severity: error
select sample_key, model_id, file, length(regexp_extract_all(coalesce(caption, ''), '\S+')) as words
from source_captions
where words = 0 or words > 200
order by sample_key, model_id;
