-- one row per split and metric: the newest score of the model $model_id
select split, metric, value, low, high, images, run_id, created_at
from metrics
where model_id = $model_id
qualify row_number() over (partition by split, metric order by created_at desc, run_id desc) = 1
order by split, metric;
