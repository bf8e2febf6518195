-- one row: rows that landed in the batches of the run $run_id, images that it captioned with the model $model_id
select
    count(*) filter (where ledger.stage = 'land') as landed,
    count(*) filter (where ledger.stage = 'caption' and ledger.status = 'ok' and entry.model_id = $model_id) as captioned
from source_run_entries as link
join source_entries as entry using (entry_id)
join source_files as file using (entry_id)
join source_ledger as ledger on ledger.file = file.path
where link.run_id = $run_id and file.kind = 'ledger';
