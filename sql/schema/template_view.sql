-- template: a source table gives way to a view over exactly the Parquet files that one generation names
drop table {table};
create view {table} as
select {columns}, lake_relative(filename, {parts}) as file
from read_parquet(lake_files([{files}]), union_by_name = true);
