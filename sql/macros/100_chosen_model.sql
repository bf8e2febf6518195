-- a model's id, or '' → that model, else the one in production, else the one trained last
create macro chosen_model(model) as coalesce(
    nullif(model, ''),
    (select nullif(production_model_id, '') from catalog_info),
    (select max_by(model_id, created_at) from models)
);

comment on macro chosen_model is 'The model itself; for an empty text the one in production, else the one trained last.';
