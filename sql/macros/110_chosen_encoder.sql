-- an encoder's id, or '' → that encoder, else the production model's, else the one that embedded last
create macro chosen_encoder(encoder) as coalesce(
    nullif(encoder, ''),
    (select max_by(known.encoder_id, (known.is_production, known.created_at)) from encoders as known)
);

comment on macro chosen_encoder is 'The encoder itself; for an empty text the production model''s, else the one that embedded last.';
