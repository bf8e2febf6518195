-- one row per decision of the gate in which the model $model_id was candidate or in production, oldest first
select decided_at, candidate_model_id, production_model_id, verdict, reason, evaluation_set, run_id, evidence
from decisions
where $model_id in (candidate_model_id, production_model_id)
order by decided_at;
