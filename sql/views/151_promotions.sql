-- one row per change of the model in production
create view promotions as
select
    promotion.position,
    promotion.model_id,
    nullif(promotion.previous_model_id, '') as previous_model_id,
    promotion.reason,
    promotion.is_rollback,
    promotion.position = max(promotion.position) over () as is_current,
    promotion.created_at
from source_promotions as promotion
order by promotion.position;

comment on view promotions is 'One row per change of the model in production, oldest first: by the gate and by hand.';
comment on column promotions.position is '1 for the first.';
comment on column promotions.model_id is 'The model that went into production.';
comment on column promotions.previous_model_id is 'The one that it replaced; null for the first.';
comment on column promotions.reason is 'Why.';
comment on column promotions.is_rollback is 'Whether it took back the promotion before, instead of adding one.';
comment on column promotions.is_current is 'Whether that model is in production now.';
comment on column promotions.created_at is 'When.';
