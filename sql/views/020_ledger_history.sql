-- one row per image and stage (and encoder, for embeddings; and model, for captions)
create view ledger_history as
with written_by as (
    select distinct file.path, entry.encoder_id, entry.model_id
    from source_files as file
    join source_entries as entry using (entry_id)
    where file.kind = 'ledger'
)
select
    ledger.sample_key,
    ledger.batch_id,
    ledger.shard_id,
    written_by.encoder_id,
    written_by.model_id,
    ledger.stage,
    ledger.status,
    ledger.reason,
    ledger.image_url,
    ledger.created_at
from source_ledger as ledger
left join written_by on ledger.file = written_by.path;

comment on view ledger_history is 'One row per image and stage (and encoder, for embeddings; and model, for captions): every outcome.';
comment on column ledger_history.sample_key is 'Names the image in every stage: <batch hash8>-<row>.';
comment on column ledger_history.batch_id is 'The batch that the image landed with.';
comment on column ledger_history.shard_id is 'The shard that the image was downloaded into. Of no meaning at stage land.';
comment on column ledger_history.encoder_id is 'The encoder, at stage embed; null elsewhere.';
comment on column ledger_history.model_id is 'The model, at stage caption; null elsewhere.';
comment on column ledger_history.stage is 'land, download, embed or caption.';
comment on column ledger_history.status is 'ok, failed, filtered, opted_out or duplicate.';
comment on column ledger_history.reason is 'Why it is not ok; empty when ok.';
comment on column ledger_history.image_url is 'Where the image comes from.';
comment on column ledger_history.created_at is 'When the outcome was known.';
