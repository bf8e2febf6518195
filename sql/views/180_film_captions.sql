-- one row per captioned frame of a film and model
create view film_captions as
with frames as (
    select
        caption.*,
        regexp_extract(
            caption.image_url, '^(.+)#t=([0-9.]+)&span=([0-9.]+),([0-9.]+)$', ['film', 'time_s', 'start_s', 'end_s']
        ) as part
    from captions as caption
    where contains(caption.image_url, '#t=')
)
select
    frame.part.film as film,
    cast(frame.part.start_s as double) as start_s,
    cast(frame.part.end_s as double) as end_s,
    frame.caption,
    cast(frame.part.time_s as double) as time_s,
    frame.sample_key,
    frame.model_id,
    frame.run_id,
    frame.batch_id,
    frame.image_url,
    frame.clip_score,
    frame.log_probability,
    frame.tokens,
    frame.created_at
from frames as frame
where frame.part.film <> '';

comment on view film_captions is 'One row per captioned frame of a film and model: what is seen from start_s to end_s.';
comment on column film_captions.film is 'The URL of the film.';
comment on column film_captions.start_s is 'Seconds since the film''s start from which the frame stands for it.';
comment on column film_captions.end_s is 'Seconds since the film''s start at which that ends.';
comment on column film_captions.caption is 'The caption.';
comment on column film_captions.time_s is 'Where the frame is: seconds since the film''s start.';
comment on column film_captions.sample_key is 'Names the image in every stage: <batch hash8>-<row>.';
comment on column film_captions.model_id is 'The model that wrote it.';
comment on column film_captions.run_id is 'The run that wrote it.';
comment on column film_captions.batch_id is 'The batch that the frame landed with.';
comment on column film_captions.image_url is 'The film with the frame''s time as a media fragment.';
comment on column film_captions.clip_score is 'CLIPScore, 0 to 2.5: how well the caption fits the frame, by the encoder that embedded it; null where it was not scored.';
comment on column film_captions.log_probability is 'Sum over its tokens (natural logarithm).';
comment on column film_captions.tokens is 'Tokens of the caption.';
comment on column film_captions.created_at is 'When it was written.';
