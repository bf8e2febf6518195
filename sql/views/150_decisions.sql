-- one row per decision of the gate
create view decisions as
select
    decided_at,
    run_id,
    candidate_model_id,
    nullif(production_model_id, '') as production_model_id,
    verdict,
    reason,
    evidence,
    evaluation_set
from source_decisions
order by position;

comment on view decisions is 'One row per decision of the gate: whether a new model replaced the one in production, and why.';
comment on column decisions.decided_at is 'When.';
comment on column decisions.run_id is 'The run that trained and compared.';
comment on column decisions.candidate_model_id is 'The new model.';
comment on column decisions.production_model_id is 'The model in production until then; null where there was none.';
comment on column decisions.verdict is 'promoted or refused.';
comment on column decisions.reason is 'One sentence.';
comment on column decisions.evidence is 'JSON: comparison (its rows, as in the view comparisons), limits (the section [gate]), images.';
comment on column decisions.evaluation_set is 'The frozen images that both were scored on; empty where none were needed.';
