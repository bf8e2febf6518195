-- one row per model that was evaluated on the splits of the run $run_id, the newest first
select metrics.model_id, metrics.split, metrics.cider, metrics.bleu_4, metrics.rouge_l, metrics.images, model.created_at,
    model.is_production
from metrics_by_model as metrics
join models as model using (model_id)
where
    metrics.split in (
        select entry.meta ->> 'split'
        from source_run_entries as link
        join source_entries as entry using (entry_id)
        where link.run_id = $run_id and entry.stage = 'evaluate'
    )
order by model.created_at desc, metrics.model_id
limit 8;
