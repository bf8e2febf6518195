-- one row per split and metric: the newest score of the model $model_id, its control, and the model in production
-- Another model's score stands beside it only where it is of as many images.
with newest as (
    select model_id, split, metric, value, low, high, images, run_id, created_at
    from metrics
    qualify row_number() over (partition by model_id, split, metric order by created_at desc, run_id desc) = 1
)
select
    this.split, this.metric, this.value, this.low, this.high, this.images, this.run_id, this.created_at,
    control.value as control,
    served.model_id as production_model_id,
    served.value as production_value,
    served.low as production_low,
    served.high as production_high
from newest as this
cross join catalog_info as info
left join newest as control
    on control.model_id = this.model_id and control.split = this.split and control.metric = this.metric || '_shuffled'
left join newest as served
    on served.model_id = info.production_model_id and served.model_id <> this.model_id
    and served.split = this.split and served.metric = this.metric and served.images = this.images
where this.model_id = $model_id and not ends_with(this.metric, '_shuffled')
order by this.split, this.metric;
