-- one row: the run $run_id, and the generation that shows it
select
    run.run_id,
    run.flow,
    run.started_at,
    run.created_at as finished_at,
    run.duration_s,
    run.entries,
    run.made,
    run.cached,
    run.config,
    info.generation,
    info.created_at as generation_created_at,
    info.production_model_id
from runs as run
cross join catalog_info as info
where run.run_id = $run_id;
