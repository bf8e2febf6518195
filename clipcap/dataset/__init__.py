"""From what is handed in (URL lists, folders, captions files, the embedded sample) to shards of images."""
