-- one row per stage, status and kind of reason of the batch $batch_id; sizes and keys inside a reason are taken out
with outcomes as (
    select
        stage,
        status,
        regexp_replace(
            regexp_replace(reason, '[0-9]+ x [0-9]+', 'W x H', 'g'), '[0-9a-f]{8}-[0-9]{7}', '…', 'g'
        ) as reason
    from ledger_history
    where batch_id = $batch_id and stage in ('land', 'download', 'embed')
    qualify row_number() over (partition by sample_key, stage order by created_at desc) = 1
)
select stage, status, reason, count(*) as images
from outcomes
group by stage, status, reason
order by stage_order(stage), status <> 'ok', images desc, status, reason;
