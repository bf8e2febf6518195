-- one row per batch of the run $run_id
select distinct batch.batch_id, batch.dataset, batch.source, batch.landed_rows, batch.images, batch.run_id, batch.created_at
from source_run_entries as link
join source_entries as entry using (entry_id)
join batches as batch on batch.batch_id = entry.batch_id
where link.run_id = $run_id
order by batch.created_at, batch.batch_id
limit 50;
