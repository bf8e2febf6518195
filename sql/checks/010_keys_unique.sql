-- one row per image that stands twice where it may stand once: in the downloads, under one encoder, under one model
-- severity: error
with stored as (
    select 'download' as stage, sample_key, null as variant, file from source_shards
    union all
    select 'embed', sample_key, string_split(file, '/')[2], file from source_embeddings
    union all
    select 'caption', sample_key, model_id, file from source_captions
),
repeated as materialized (
    select stage, sample_key, variant, count(*) as rows
    from stored
    group by stage, sample_key, variant
    having count(*) > 1
)
select
    repeated.stage,
    repeated.sample_key,
    repeated.variant,
    repeated.rows,
    min(stored.file) as first_file,
    max(stored.file) as last_file
from repeated
join stored
    on stored.sample_key = repeated.sample_key
    and stored.stage = repeated.stage
    and stored.variant is not distinct from repeated.variant
group by all
order by stage, sample_key, variant;
