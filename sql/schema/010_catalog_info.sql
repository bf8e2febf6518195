-- one row: what this catalog was built from
create table catalog_info (
    catalog_version varchar not null,
    schema_number integer not null,
    generation bigint not null,
    created_at timestamptz not null,
    production_model_id varchar not null
);

comment on table catalog_info is 'One row: the generation that this catalog shows. The catalog is derived and safe to delete.';
comment on column catalog_info.catalog_version is 'Version of the statements that built it; another one means rebuild.';
comment on column catalog_info.schema_number is 'Number of the newest migration that those statements know; see migrations.';
comment on column catalog_info.generation is 'Number of the generation: manifests/<n>.json.';
comment on column catalog_info.created_at is 'When the generation was committed.';
comment on column catalog_info.production_model_id is 'The model promoted last; empty before the first promotion.';
