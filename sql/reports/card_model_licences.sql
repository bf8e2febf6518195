-- one row per licence that the lists gave the images that the model $model_id learned from, the commonest first
select nullif(urls.licence, '') as licence, count(*) as images, count(distinct nullif(urls.source, '')) as sources
from source_urls as urls
join (
    select distinct sample_key, batch_id
    from ledger_history
    where stage = 'embed' and status = 'ok'
) as embedded using (sample_key)
where
    list_contains((select batch_ids from models where model_id = $model_id), embedded.batch_id)
    and urls.split in ('train', 'restval')
    and len(urls.captions) > 0
group by all
order by images desc, licence
limit 20;
