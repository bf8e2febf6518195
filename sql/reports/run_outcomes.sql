-- one row per stage, status and kind of reason in the ledgers that the run $run_id used; of captions, the model $model_id
-- Sizes and keys inside a reason are taken out, so that a thousand small images are one row.
with outcomes as (
    select
        ledger.stage,
        ledger.status,
        ledger.image_url,
        regexp_replace(
            regexp_replace(ledger.reason, '[0-9]+ x [0-9]+', 'W x H', 'g'), '[0-9a-f]{8}-[0-9]{7}', '…', 'g'
        ) as reason
    from source_run_entries as link
    join source_entries as entry using (entry_id)
    join source_files as file using (entry_id)
    join source_ledger as ledger on ledger.file = file.path
    where
        link.run_id = $run_id
        and file.kind = 'ledger'
        and (entry.stage <> 'caption' or entry.model_id = $model_id)
)
select stage, status, reason, count(*) as images, min(image_url) as example_url
from outcomes
group by stage, status, reason
order by stage_order(stage), status <> 'ok', images desc, status, reason;
