-- one row, or none: the batch $batch_id, what it takes of the disk, and what its references say
with texts as (
    select unnest(urls.captions) as caption, urls.sample_key
    from source_urls as urls
    where starts_with(urls.sample_key, right($batch_id, 8) || '-')
)
select
    batch.*,
    (select coalesce(sum(size_bytes), 0) from source_shards where batch_id = $batch_id)::bigint as size_bytes,
    (select median(width) from source_shards where batch_id = $batch_id) as median_width,
    (select median(height) from source_shards where batch_id = $batch_id) as median_height,
    (select count(*) from texts) as captions,
    (select count(distinct sample_key) from texts) as captioned_images,
    (select avg(len(regexp_extract_all(caption, '[\p{L}\p{N}]+'))) from texts) as caption_length,
    (
        select count(distinct word)
        from (select unnest(regexp_extract_all(lower(caption), '[\p{L}\p{N}]+')) as word from texts)
    ) as vocabulary,
    (select count(distinct sha256) from source_shards where batch_id = $batch_id) as different_images,
    (
        select count(distinct sample_key) from near_duplicates where batch_id = $batch_id
    ) as near_duplicates
from batches as batch
where batch.batch_id = $batch_id;
