-- one row, or none: the model that the run $run_id compares $model_id with
-- The production model of the gate's decision on it, else of its comparison, else the one that was promoted last before
-- the run ended. $decided and $compared are '' where there is neither.
with candidates as (
    select $decided as model_id, 1 as choice, 0 as position
    union all
    select $compared, 2, 0
    union all
    select promotion.model_id, 3, -promotion.position
    from source_promotions as promotion
    join source_runs as run on promotion.created_at <= run.finished_at
    where run.run_id = $run_id
)
select model.model_id, model.created_at, model.is_production
from candidates
join models as model using (model_id)
where model.model_id <> $model_id
order by candidates.choice, candidates.position
limit 1;
