-- template: fills a small table from the manifest; `loaded` is an Arrow table of clipcap/warehouse/catalog.py
insert into {table} by name select * from loaded;
