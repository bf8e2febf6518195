-- one row per split, metric and baseline: the newest paired comparison of the model $model_id that counts for the run $run_id
-- Of the run itself before others; against $baseline_id, or where that is '' against any.
select comparison.*
from comparisons as comparison
where comparison.candidate_model_id = $model_id and ($baseline_id = '' or comparison.baseline_model_id = $baseline_id)
qualify row_number() over (
    partition by comparison.split, comparison.metric
    order by comparison.run_id = $run_id desc, comparison.created_at desc
) = 1;
