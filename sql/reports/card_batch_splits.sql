-- one row per split of the batch $batch_id
select
    coalesce(nullif(split, ''), '(none)') as split,
    count(*) as images,
    count(*) filter (where len(captions) > 0) as captioned_images,
    coalesce(sum(len(captions)), 0)::bigint as captions,
    min(len(captions)) as fewest_captions,
    max(len(captions)) as most_captions
from source_urls
where starts_with(sample_key, right($batch_id, 8) || '-')
group by all
order by min(list_position(['train', 'restval', 'val', 'test'], source_urls.split));
