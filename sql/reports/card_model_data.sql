-- one row per batch and split that the model $model_id was made with: embedded images, and captions that people wrote
-- Splits train and restval teach, val chooses the best epoch, test is never seen.
with embedded as (
    select distinct sample_key, batch_id
    from ledger_history
    where stage = 'embed' and status = 'ok'
)
select
    batch.batch_id,
    batch.dataset,
    batch.source,
    coalesce(nullif(urls.split, ''), '(none)') as split,
    count(*) as images,
    count(*) filter (where len(urls.captions) > 0) as captioned_images,
    sum(len(urls.captions))::bigint as captions,
    count(*) filter (where coalesce(urls.licence, '') <> '') as with_licence,
    count(*) filter (where coalesce(urls.source, '') <> '') as with_source
from batches as batch
join embedded using (batch_id)
join source_urls as urls using (sample_key)
where list_contains((select batch_ids from models where model_id = $model_id), batch.batch_id)
group by all
order by batch.batch_id, min(list_position(['train', 'restval', 'val', 'test'], urls.split));
