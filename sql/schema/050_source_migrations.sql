-- one row per numbered step of the lake's form
create table source_migrations (
    number integer not null,
    name varchar not null,
    applied_at timestamptz
);

comment on table source_migrations is 'One row per numbered step of the lake''s form, oldest first.';
comment on column source_migrations.number is '1 for the first form.';
comment on column source_migrations.name is 'What changed.';
comment on column source_migrations.applied_at is 'When this lake took the step; null where it was made in that form or a later one.';
