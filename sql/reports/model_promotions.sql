-- one row per promotion by which the model $model_id went into production or left it, oldest first
select created_at, model_id, previous_model_id, is_rollback, reason
from promotions
where $model_id in (model_id, previous_model_id)
order by position;
