-- one row, or none: what the gate decided on the model $model_id, in the run $run_id before others
select decided_at, run_id, candidate_model_id, production_model_id, verdict, reason, evidence, evaluation_set
from decisions
where candidate_model_id = $model_id
order by run_id = $run_id desc, decided_at desc
limit 1;
