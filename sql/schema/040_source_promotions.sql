-- one row per promotion
create table source_promotions (
    position bigint not null,
    model_id varchar not null,
    previous_model_id varchar not null,
    reason varchar not null,
    created_at timestamptz not null,
    is_rollback boolean not null
);

comment on table source_promotions is 'One row per promotion of a model to production, oldest first.';
comment on column source_promotions.position is '1 for the first.';
comment on column source_promotions.model_id is 'The promoted model.';
comment on column source_promotions.previous_model_id is 'The one before; empty for the first.';
comment on column source_promotions.reason is 'Why.';
comment on column source_promotions.created_at is 'When.';
comment on column source_promotions.is_rollback is 'Whether it takes back the promotion before, instead of adding one.';
