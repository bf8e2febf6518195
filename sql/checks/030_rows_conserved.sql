-- one row per image that went into a stage and has no outcome there, or is ok there and has no output
-- severity: error
-- Only shards that have an entry at a stage are compared: what is still to be done is not lost. An output that is older
-- than its input (the shard was downloaded again since, an older model has not captioned it again) is not compared
-- either. `variant` is the encoder (embed) or the model (caption); one image has an outcome for each.
with outcomes as (
    select sample_key, batch_id, shard_id, stage, status, coalesce(model_id, encoder_id, '') as variant
    from ledger_history
),
landed as (
    select sample_key, batch_id from outcomes where stage = 'land' and status = 'ok'
),
shards as (  -- a shard is a slice of its batch in the order of keys: where it begins and where it ends
    select
        entry.batch_id,
        entry.shard_id,
        string_split(entry.shard_id, '-')[-1]::integer as position,
        min(outcomes.sample_key) as first_key,
        max(outcomes.sample_key) as last_key
    from source_entries as entry
    left join outcomes on outcomes.shard_id = entry.shard_id and outcomes.stage = 'download'
    where entry.stage = 'download'
    group by entry.batch_id, entry.shard_id
),
slices as (
    select
        this.batch_id,
        this.shard_id,
        if(this.position = 0, '', this.first_key) as first_key,
        this.last_key,
        after.first_key as next_key
    from shards as this
    left join shards as after on after.batch_id = this.batch_id and after.position = this.position + 1
),
inputs as (
    select 'download' as stage, slices.batch_id, slices.shard_id, '' as variant, landed.sample_key
    from slices
    join landed
        on landed.batch_id = slices.batch_id
        and landed.sample_key >= slices.first_key
        and if(slices.next_key is null, landed.sample_key <= slices.last_key, landed.sample_key < slices.next_key)

    union all

    select 'embed', entry.batch_id, entry.shard_id, entry.encoder_id, outcomes.sample_key
    from source_entries as entry
    join source_entries as input on input.shard_id = entry.shard_id and input.stage = 'download'
    join outcomes on outcomes.shard_id = entry.shard_id and outcomes.stage = 'download' and outcomes.status = 'ok'
    where entry.stage = 'embed' and entry.created_at >= input.created_at

    union all

    select 'caption', entry.batch_id, entry.shard_id, entry.model_id, outcomes.sample_key
    from source_entries as entry
    join models as model using (model_id)
    join source_entries as input
        on input.shard_id = entry.shard_id
        and input.stage = 'embed'
        and starts_with(model.encoder_hash, string_split(input.encoder_id, '@')[-1])
    join outcomes
        on outcomes.shard_id = entry.shard_id
        and outcomes.stage = 'embed'
        and outcomes.status = 'ok'
        and outcomes.variant = input.encoder_id
    where entry.stage = 'caption' and entry.created_at >= input.created_at
),
outputs as (
    select sample_key, 'land' as stage, '' as variant from source_urls
    union all
    select sample_key, 'download', '' from source_shards
    union all
    select sample_key, 'embed', string_split(file, '/')[2] from source_embeddings
    union all
    select sample_key, 'caption', model_id from source_captions
)
select 'no outcome' as problem, stage, sample_key, batch_id, shard_id, variant
from inputs
where not exists (
    from outcomes
    where
        outcomes.sample_key = inputs.sample_key
        and outcomes.stage = inputs.stage
        and outcomes.variant = inputs.variant
)

union all

select 'ok without output', stage, sample_key, batch_id, shard_id, variant
from outcomes
where
    status = 'ok'
    and stage in ('land', 'download', 'embed', 'caption')
    and not exists (
        from outputs
        where
            outputs.sample_key = outcomes.sample_key
            and outputs.stage = outcomes.stage
            and outputs.variant = outcomes.variant
    )
order by problem, stage, sample_key;
