-- one row per stage, encoder and model that an image went through, in order: why it has a caption, or none
create macro story_of(sample_key) as table
select
    outcome.created_at,
    outcome.stage,
    coalesce(outcome.model_id, outcome.encoder_id) as by_what,
    outcome.status,
    outcome.reason,
    written.caption,
    written.clip_score,
    outcome.batch_id,
    outcome.shard_id,
    outcome.image_url
from ledger_history as outcome
left join source_captions as written
    on outcome.stage = 'caption'
    and written.sample_key = outcome.sample_key
    and written.model_id = outcome.model_id
where outcome.sample_key = sample_key
order by stage_order(outcome.stage), outcome.created_at, by_what;

comment on macro table story_of is 'One row per stage, encoder and model that one image went through, in order: created_at, stage, by_what, status, reason, caption, clip_score, batch_id, shard_id, image_url.';
