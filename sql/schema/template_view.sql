-- template: a source table gives way to a view over exactly the Parquet files that one generation names
-- The columns are given, so no file is opened before it is read; a file that lacks one of them reads as null there.
-- can_have_nan: statistics of Parquet files leave NaN out, and a filter that trusts them would never find one.
drop table {table};
create view {table} as
select {names}, lake_relative(filename, {parts}) as file
from read_parquet(lake_files([{files}]), can_have_nan = true, schema = map {{{columns}}});
