-- a list of paths below the lake → the same paths as DuckDB shall open them
-- They stay relative (`cd LAKE && duckdb catalog.duckdb`, or SET file_search_path = 'LAKE') unless the session says
-- SET VARIABLE lake = '/where/it/is/', which `clipcap sql` does: DuckDB looks in the current folder before
-- file_search_path, so only that is right inside another lake.
create macro lake_files(files) as
    list_transform(files, lambda file: coalesce(getvariable('lake'), '') || file);

comment on macro lake_files is 'Paths below the lake as this session opens them; SET VARIABLE lake puts the root before them.';
