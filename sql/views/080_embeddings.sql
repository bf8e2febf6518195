-- one row per embedded image and encoder
create view embeddings as
select
    embedding.sample_key,
    entry.batch_id,
    entry.shard_id,
    entry.encoder_id,
    embedding.sha256,
    embedding.clip_embedding
from source_embeddings as embedding
join source_files as file on embedding.file = file.path and file.kind = 'embeddings'
join source_entries as entry using (entry_id);

comment on view embeddings is 'One row per embedded image and encoder: the vectors.';
comment on column embeddings.sample_key is 'Names the image in every stage: <batch hash8>-<row>.';
comment on column embeddings.batch_id is 'The batch that the image landed with.';
comment on column embeddings.shard_id is 'The shard that the image was downloaded into.';
comment on column embeddings.encoder_id is 'The encoder: <encoder>@<first 12 digits of its weights'' hash>.';
comment on column embeddings.sha256 is 'Of the image''s bytes.';
comment on column embeddings.clip_embedding is 'The encoder''s output, stored as float16: list_cosine_similarity compares two; array functions want a cast, to FLOAT[512] or the encoder''s clip_dim.';
