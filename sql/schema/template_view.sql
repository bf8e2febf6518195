-- template: a source table gives way to a view over exactly the Parquet files that one generation names
-- A column that a file of an older lake lacks is null there.
drop table {table};
create view {table} as
select {names}, lake_relative(filename, {parts}) as file
from read_parquet(lake_files([{files}]), schema = map {{{columns}}});
