-- one row per example: the first $k images of the batch $batch_id that have captions
select sample_key, captions
from source_urls
where starts_with(sample_key, right($batch_id, 8) || '-') and len(captions) > 0
order by sample_key
limit $k;
