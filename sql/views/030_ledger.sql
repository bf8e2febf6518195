-- one row per image: the latest stage that it reached
create view ledger as
select sample_key, batch_id, shard_id, stage, status, reason, created_at, image_url
from ledger_history
qualify row_number() over (
    partition by sample_key
    order by stage_order(stage) desc, created_at desc, model_id desc, encoder_id desc
) = 1;

comment on view ledger is 'One row per image, landed or refused: the latest stage that it reached, and how that ended.';
comment on column ledger.sample_key is 'Names the image in every stage: <batch hash8>-<row>.';
comment on column ledger.batch_id is 'The batch that the image landed with.';
comment on column ledger.shard_id is 'The shard that the image was downloaded into. Of no meaning at stage land.';
comment on column ledger.stage is 'The latest stage: land, download, embed or caption.';
comment on column ledger.status is 'ok, failed, filtered, opted_out or duplicate.';
comment on column ledger.reason is 'Why it is not ok; empty when ok.';
comment on column ledger.created_at is 'When the outcome was known.';
comment on column ledger.image_url is 'Where the image comes from.';
