-- one row per image that stands twice where it may stand once: in the downloads, under one encoder, under one model
-- severity: error
with stored as (
    select 'download' as stage, sample_key, null as variant, file from source_shards
    union all
    select 'embed', sample_key, string_split(file, '/')[2], file from source_embeddings
    union all
    select 'caption', sample_key, model_id, file from source_captions
)
select stage, sample_key, variant, count(*) as rows, min(file) as first_file, max(file) as last_file
from stored
group by stage, sample_key, variant
having count(*) > 1
order by stage, sample_key, variant;
