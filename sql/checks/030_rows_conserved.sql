-- one row per image that went into a stage and has no outcome there, or is ok there and has no output
-- severity: error
-- Only shards that have an entry at a stage are compared: what is still to be done is not lost. An output that is older
-- than its input (the shard was downloaded again since, an older model has not captioned it again) is not compared
-- either. `variant` is the encoder (embed) or the model (caption); one image has an outcome for each.
-- Sets of keys are first compared by their prints (number of keys, sum of their hashes); only where these differ are
-- rows looked at, so a lake in which nothing is lost costs one pass over each table.
with ledger_prints as (
    select
        file,
        count(*) as rows,
        sum(hash(sample_key)) as print,
        count(*) filter (where status = 'ok') as ok_rows,
        coalesce(sum(hash(sample_key)) filter (where status = 'ok'), 0) as ok_print
    from source_ledger
    group by file
),
output_prints as (
    select file, count(*) as rows, sum(hash(sample_key)) as print from source_urls group by file
    union all
    select file, count(*), sum(hash(sample_key)) from source_shards group by file
    union all
    select file, count(*), sum(hash(sample_key)) from source_embeddings group by file
    union all
    select file, count(*), sum(hash(sample_key)) from source_captions group by file
),
entries as materialized (
    select
        entry.stage,
        entry.batch_id,
        entry.shard_id,
        coalesce(entry.model_id, entry.encoder_id, '') as variant,
        entry.created_at,
        ledger.path as ledger_file,
        made.path as output_file,
        coalesce(ledger_prints.rows, 0) as rows,
        coalesce(ledger_prints.print, 0) as print,
        coalesce(ledger_prints.ok_rows, 0) as ok_rows,
        coalesce(ledger_prints.ok_print, 0) as ok_print,
        coalesce(output_prints.rows, 0) as output_rows,
        coalesce(output_prints.print, 0) as output_print
    from source_entries as entry
    left join source_files as ledger on ledger.entry_id = entry.entry_id and ledger.kind = 'ledger'
    left join source_files as made
        on made.entry_id = entry.entry_id
        and made.kind = case entry.stage
            when 'land' then 'urls' when 'download' then 'shard' when 'embed' then 'embeddings' else 'captions' end
    left join ledger_prints on ledger_prints.file = ledger.path
    left join output_prints on output_prints.file = made.path
    where entry.stage in ('land', 'download', 'embed', 'caption')
),
steps as (  -- entries that do not say of exactly those keys that were ok in the stage before
    select this.*, input.ledger_file as input_file
    from entries as this
    join entries as input on input.shard_id = this.shard_id and input.stage = 'download'
    where
        this.stage = 'embed'
        and this.created_at >= input.created_at
        and (this.rows <> input.ok_rows or this.print <> input.ok_print)

    union all

    select this.*, input.ledger_file
    from entries as this
    join models as model on model.model_id = this.variant
    join entries as input
        on input.shard_id = this.shard_id
        and input.stage = 'embed'
        and starts_with(model.encoder_hash, string_split(input.variant, '@')[-1])
    where
        this.stage = 'caption'
        and this.created_at >= input.created_at
        and (this.rows <> input.ok_rows or this.print <> input.ok_print)
),
batches_to_see as (  -- batches of which the shards' ledgers together do not say of exactly those keys that landed
    select batch_id
    from entries
    where stage in ('land', 'download')
    group by batch_id
    having
        coalesce(sum(ok_rows) filter (where stage = 'land'), 0) <> coalesce(sum(rows) filter (where stage = 'download'), 0)
        or coalesce(sum(ok_print) filter (where stage = 'land'), 0)
        <> coalesce(sum(print) filter (where stage = 'download'), 0)
),
downloaded as materialized (
    select ledger.batch_id, ledger.shard_id, ledger.sample_key
    from source_ledger as ledger
    join batches_to_see using (batch_id)
    where ledger.stage = 'download'
),
shards as (  -- a shard is a slice of its batch in the order of keys: where it begins and where it ends
    select
        entry.batch_id,
        entry.shard_id,
        string_split(entry.shard_id, '-')[-1]::integer as position,
        min(downloaded.sample_key) as first_key,
        max(downloaded.sample_key) as last_key
    from entries as entry
    left join downloaded on downloaded.shard_id = entry.shard_id
    where entry.stage = 'download' and entry.batch_id in (select batch_id from batches_to_see)
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
landed as (
    select ledger.batch_id, ledger.sample_key
    from source_ledger as ledger
    join batches_to_see using (batch_id)
    where ledger.stage = 'land' and ledger.status = 'ok'
),
went_in as materialized (
    select steps.stage, ledger.sample_key, steps.batch_id, steps.shard_id, steps.variant, steps.ledger_file as file
    from steps
    join source_ledger as ledger on ledger.file = steps.input_file and ledger.status = 'ok'
),
came_out as (
    select ledger.file, ledger.sample_key
    from source_ledger as ledger
    join (select distinct ledger_file from steps) as seen on seen.ledger_file = ledger.file
),
promised as materialized (
    select entry.stage, ledger.sample_key, ledger.batch_id, ledger.shard_id, entry.variant, entry.output_file as file
    from entries as entry
    join source_ledger as ledger on ledger.file = entry.ledger_file and ledger.status = 'ok'
    where entry.ok_rows <> entry.output_rows or entry.ok_print <> entry.output_print
),
outputs as (
    select file, sample_key from source_urls
    union all
    select file, sample_key from source_shards
    union all
    select file, sample_key from source_embeddings
    union all
    select file, sample_key from source_captions
),
kept as (
    select outputs.file, outputs.sample_key
    from outputs
    join (select distinct file from promised) as seen on seen.file = outputs.file
)
select 'no outcome' as problem, 'download' as stage, landed.sample_key, slices.batch_id, slices.shard_id, '' as variant
from landed
anti join downloaded using (batch_id, sample_key)
asof join slices on slices.batch_id = landed.batch_id and landed.sample_key >= slices.first_key
where if(slices.next_key is null, landed.sample_key <= slices.last_key, landed.sample_key < slices.next_key)

union all

select 'no outcome', stage, sample_key, batch_id, shard_id, variant
from went_in
anti join came_out using (file, sample_key)

union all

select 'ok without output', stage, sample_key, batch_id, shard_id, variant
from promised
anti join kept using (file, sample_key)
order by problem, stage, sample_key;
