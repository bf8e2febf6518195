-- one row, or none: the model $model_id, the run that trained it with its configuration, and what its entry says
select
    model.*,
    entry.meta,
    run.flow,
    run.started_at,
    run.config,
    (select production_model_id from catalog_info) as production_model_id
from models as model
join source_entries as entry on entry.stage = 'train' and entry.model_id = model.model_id
left join runs as run on run.run_id = model.run_id
where model.model_id = $model_id;
