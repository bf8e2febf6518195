-- one row: what became of the rows of the run $run_id; of captions, those of the model $model_id
-- A row that a stage refuses is no input of the next one, so it counts once.
select
    count(distinct ledger.sample_key) filter (where ledger.stage = 'land') as landed,
    count(distinct ledger.sample_key) filter (where ledger.stage = 'caption' and ledger.status = 'ok') as captioned,
    count(distinct ledger.sample_key) filter (where ledger.status = 'failed') as failed,
    count(distinct ledger.sample_key) filter (where ledger.status = 'filtered') as filtered,
    count(distinct ledger.sample_key) filter (where ledger.status = 'duplicate') as duplicate,
    count(distinct ledger.sample_key) filter (where ledger.status = 'opted_out') as opted_out
from source_run_entries as link
join source_entries as entry using (entry_id)
join source_files as file using (entry_id)
join source_ledger as ledger on ledger.file = file.path
where
    link.run_id = $run_id
    and file.kind = 'ledger'
    and (entry.stage <> 'caption' or entry.model_id = $model_id);
