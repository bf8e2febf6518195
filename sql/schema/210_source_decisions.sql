-- one row per decision of the gate
create table source_decisions (
    position bigint not null,
    decided_at timestamptz not null,
    run_id varchar not null,
    candidate_model_id varchar not null,
    production_model_id varchar not null,
    verdict varchar not null,
    reason varchar not null,
    evidence json,
    evaluation_set varchar not null
);

comment on table source_decisions is 'One row per decision of the gate, oldest first.';
comment on column source_decisions.position is '1 for the first.';
comment on column source_decisions.decided_at is 'When.';
comment on column source_decisions.run_id is 'The run that trained and compared.';
comment on column source_decisions.candidate_model_id is 'The new model.';
comment on column source_decisions.production_model_id is 'The one in production until then; empty where there was none.';
comment on column source_decisions.verdict is 'promoted or refused.';
comment on column source_decisions.reason is 'One sentence.';
comment on column source_decisions.evidence is 'The rows of the comparison, and the limits that they were held against.';
comment on column source_decisions.evaluation_set is 'The frozen images that both were scored on.';
