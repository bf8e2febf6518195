-- one row per numbered step of the lake's form
create view migrations as
select number, name, applied_at from source_migrations;

comment on view migrations is 'One row per numbered step of the lake''s form: what changed, and when this lake took the step.';
comment on column migrations.number is '1 for the first form; the largest is catalog_info.schema_number.';
comment on column migrations.name is 'What changed.';
comment on column migrations.applied_at is 'When this lake took the step; null where it was made in that form or a later one.';
